"""The shipped tiny model, and the data of the recipe that makes it."""

from __future__ import annotations

import importlib.util
import random
import sys
from itertools import islice
from pathlib import Path

import pytest

from autodidact.problem import Problem
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.tasks.reverse_text import reverse_text

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "src" / "autodidact" / "tiny"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("tiny_base", ROOT / "recipes" / "tiny_base.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER)


def test_it_is_small_and_hides_no_sampling_defaults(model, words):
    assert model.config.model_type == "qwen3"
    assert model.num_parameters() < 1_000_000
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000
    assert model.config.max_position_embeddings >= 4096
    assert words.bos_token_id is None and words.pad_token_id != words.eos_token_id
    settings = model.generation_config.to_diff_dict()
    assert set(settings) <= {"eos_token_id", "pad_token_id", "transformers_version"}
    assert settings["eos_token_id"] == words.eos_token_id == model.config.eos_token_id


def test_any_text_survives_the_tokenizer(words):
    everything = "".join(map(chr, [*range(1, 0x250), 0x4E2D, 0x1F600, 0x2212]))
    for text in (everything, "  two  spaces\n\n\ttab ", "7+8*3=31", "<|no|>", ""):
        ids = words(text)["input_ids"]
        assert words.decode(ids) == text
        assert len(ids) == len(text.encode())


def test_chat_template(words):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    whole = words.apply_chat_template(messages, tokenize=False)
    assert whole == "<|system|>s<|user|>u<|assistant|>a<|end|>"
    prompt = words.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt)
    assert words(whole)["input_ids"][-1] == words.eos_token_id
    assert words(prompt)["input_ids"] == words(whole)["input_ids"][: len(words(prompt).input_ids)]


def test_it_leaves_room_and_uses_privileged_information(recipe, model, words):
    import torch

    torch.manual_seed(0)
    calculation, reverse = tiny_calculation(), reverse_text()
    assert 0.3 < recipe.accuracy(model, words, calculation) < 0.6
    assert recipe.accuracy(model, words, calculation, sample=False) < 0.85
    assert recipe.accuracy(model, words, calculation, privileged=True) > 0.95
    assert recipe.accuracy(model, words, reverse) > 0.95


def test_wrong_steps_are_marked_and_carried_on(recipe):
    rng = random.Random(0)
    task = tiny_calculation()
    ended = []
    for problem in task.train:
        text, wrong = recipe.attempt(problem, rng, slips=True)
        ended.append(task.correct(problem, text))
        assert ended[-1] or wrong
        assert all(0 <= at <= len(text) for at in wrong)
        assert recipe.attempt(problem, rng, slips=False)[1] == []
        assert task.correct(problem, recipe.attempt(problem, rng, slips=False)[0])
    assert 0.5 < sum(ended) / len(ended) < 0.65


def test_a_hasty_reader_takes_the_sum_before_the_product(recipe):
    from autodidact.tasks.arithmetic import evaluate, parse

    for text, value in [("7+8*3", 45), ("1+(2*3)*4", 25), ("9-(1+2*3)", 0), ("2*3+4", 10)]:
        assert evaluate(recipe.hasty(parse(text))) == value


def test_training_rows_hold_no_known_problem_and_label_no_wrong_step(recipe):
    words = recipe.tokenizer()
    known = {p.question for t in (tiny_calculation(), reverse_text()) for p in (*t.train, *t.test)}
    drawn = list(islice(recipe.rows(recipe.STAGES[0], seed=3), 400))
    assert not known & {messages[0]["content"].split("\n")[0] for messages, *_ in drawn}
    assert any(wrong for *_, wrong in drawn)
    labels = recipe.tensors(drawn, words)["labels"]
    for (_, text, wrong), row in zip(drawn, labels.tolist(), strict=True):
        expected = [*text.encode(), None]  # the end token is asked
        asked = [label for label in row if label != -100]
        assert len(asked) == len(expected) - len(wrong)
        if len(text) not in wrong:
            assert asked[-1] == words.eos_token_id
        kept = "".join(c for i, c in enumerate(text) if i not in wrong)
        assert words.decode(asked, skip_special_tokens=True) == kept


def test_a_row_without_solution_cannot_be_reread():
    with pytest.raises(ValueError, match="no solution"):
        reverse_text().privileged(Problem("reverse:abc"))
