"""F9: tokenizers and chat templates that do not fit are refused or warned of before training."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace

import pytest
import torch

from autodidact.calls import method as method_of
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.preflight import check
from autodidact.problem import Problem
from autodidact.rendering import check_rendering
from toys import random_qwen, toy_task


@pytest.fixture
def lm(tokenizer) -> LM:
    """A random model over a tokenizer of its own, which a test may spoil."""
    return random_qwen(copy.deepcopy(tokenizer))


def warned(lm: LM, task=None) -> list[str]:
    """What is warned of; an error stays an error."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_rendering(lm, task or toy_task())
    return [str(each.message) for each in found]


def test_nothing_is_said_of_one_that_fits(lm):
    assert warned(lm) == []


def test_no_chat_template(lm):
    lm.tokenizer.chat_template = None
    (said,) = warned(lm)
    assert "no chat template" in said
    assert said.endswith("the first prompt: '1+1\\n'")


def test_a_template_that_refuses_or_is_broken(lm):
    for template, reason in (
        ("{{ raise_exception('roles!') }}", "roles!"),
        ("{% for %}", "xpected"),
    ):
        lm.tokenizer.chat_template = template
        with pytest.raises(ValueError, match=rf"refuses messages of \['user'\]: .*{reason}"):
            check_rendering(lm, toy_task())
        lm._rendered.clear()


def test_a_template_that_drops_the_question(lm):
    lm.tokenizer.chat_template = "<|user|>Hello!<|assistant|>"
    with pytest.raises(ValueError, match=r"does not write what the user says.*Hello!"):
        check_rendering(lm, toy_task())


def test_a_beginning_that_is_doubled(lm):
    lm.tokenizer.bos_token = "<|system|>"
    whole = lm.tokenizer.chat_template
    lm.tokenizer.chat_template = "<|system|>" + whole
    assert warned(lm) == []
    lm._rendered.clear()
    lm.tokenizer.chat_template = "<|system|><|system|>" + whole
    (said,) = warned(lm)
    assert "begin with '<|system|>' twice" in said
    assert "'<|system|><|system|><|user|>1+1<|assistant|>'" in said


def test_an_end_that_the_template_does_not_write(lm):
    lm.model.generation_config.eos_token_id = None
    lm.tokenizer.chat_template = lm.tokenizer.chat_template.replace("<|end|>", "<|pad|>")
    (said,) = warned(lm)
    assert "ends an answer with '1<|pad|>', which holds no token that ends a completion" in said
    assert "'<|end|>'" in said
    lm.model.generation_config.eos_token_id = [lm.tokenizer.pad_token_id]
    assert warned(lm) == [], "where the model says that this token ends a completion"


def test_no_end_at_all(lm):
    lm.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no end token"):
        check_rendering(lm, toy_task())


def test_padding_with_the_end_token_changes_nothing(lm):
    """Padding is where no token is, never a token: the end stays asked about, and its loss too."""
    from autodidact.method import Method

    def loss(one: LM) -> torch.Tensor:
        made: Method = method_of("sft")()
        models, task = Models(one), toy_task()
        batch = made.rollout(task.train, models, task, 0)
        assert (batch.ids[batch.own] == one.end).sum() == len(task.train)
        scores = {
            name: models.score(view, batch) for name, view in made.views(batch, models).items()
        }
        return made.loss(scores, batch)

    before = loss(lm)
    lm.tokenizer.pad_token = lm.tokenizer.eos_token
    assert torch.equal(loss(lm), before)
    assert warned(lm) == []


def test_a_model_without_rows_for_the_tokens(tokenizer):
    small = random_qwen(tokenizer, vocab_size=60)
    small.model.generation_config.eos_token_id = None
    task = toy_task()
    if max(small.render(task.prompt(task.train[0]))) < 60:
        task = replace(task, prompt=lambda problem: [{"role": "user", "content": "zzz"}])
    with pytest.raises(ValueError, match=r"as token \d+, and the model has 60 rows: they do not"):
        check_rendering(small, task)


def test_rows_for_few_of_the_tokens_and_for_more_than_there_are(lm):
    """A multimodal tokenizer has tokens that a text model has no rows for; padded heads have more
    rows than tokens. The first is said, the second is usual and decodes to nothing."""
    lm.tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    (said,) = warned(lm)
    assert "1 tokens of the tokenizer are beyond the 261 rows of the model" in said
    wide = random_qwen(lm.tokenizer, vocab_size=300)
    assert warned(wide) == []
    assert wide.text([65, 290, 66]) == wide.text([65, 66])


def test_special_tokens_in_the_data(lm):
    task = toy_task()
    bad = Problem("1+1<|end|>", "2", "2", {"_at": "a.jsonl:7"})
    (said,) = warned(lm, replace(task, train=[*task.train, bad]))
    assert "1 problems hold special tokens" in said
    assert "'<|end|>' in '1+1<|end|>' (a.jsonl:7)" in said


def test_it_is_checked_before_training(lm):
    lm.tokenizer.chat_template = "<|user|>Hello!<|assistant|>"
    with pytest.raises(ValueError, match="does not write what the user says"):
        check(method_of("sft")(), Models(lm), toy_task())


# Teachers


@pytest.mark.parametrize("kind", ["exchanged", "added"])
def test_a_teacher_with_other_ids(tmp_path, fresh, kind):
    """Ids are compared, not sizes: two words exchanged, or one added."""
    fresh.model.save_pretrained(tmp_path)
    fresh.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if kind == "exchanged":
        words = content["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]
        file.write_text(json.dumps(content), encoding="utf-8")
        assert len(load(str(tmp_path)).tokenizer) == len(fresh.tokenizer)
    else:
        fresh.tokenizer.add_tokens(["<|more|>"])
        fresh.tokenizer.save_pretrained(tmp_path)
        fresh = load("tiny")
    word = {"exchanged": "a", "added": r"<\|more\|>"}[kind]
    with pytest.raises(ValueError, match=rf"has another vocabulary than 'tiny': '{word}' is its"):
        Models(fresh)[str(tmp_path)]
