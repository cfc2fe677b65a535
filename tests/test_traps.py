"""Hidden defaults of transformers that would change what is sampled or trained, each in action.

A trap is shown to be there, and then that the library does not fall into it: where a version of
transformers mends one, its first half fails, and the test can go.
"""

from __future__ import annotations

import pytest
import torch

from architectures import CAUSAL, NoWords, build
from autodidact.engines.decoder import Whole
from autodidact.law import Law
from autodidact.model import LM
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.view import plain
from toys import generate, random_qwen, toy_task

PROMPT = [7, 8, 9]
DRAWS = 600


@pytest.fixture
def flat():
    """A model whose laws are nearly uniform over its 61 words, and which never ends."""
    model = build("qwen3", CAUSAL["qwen3"])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.01)
    model.generation_config.eos_token_id = None
    return LM(model, NoWords(), "flat")


def drawn_by_transformers(lm: LM, **options) -> set[int]:
    ids = torch.tensor([PROMPT])
    torch.manual_seed(0)
    found = lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=1,
        num_return_sequences=DRAWS, pad_token_id=0, **options,
    )  # fmt: skip
    return set(found[:, -1].tolist())


def drawn_here(lm: LM) -> set[int]:
    [found] = generate(lm, [PROMPT], [list(range(DRAWS))], 1, Law(), 0)
    return {each.ids[0] for each in found}


def test_sampling_is_cut_to_50_words_unless_one_says_otherwise(flat):
    words = flat.head().words
    assert len(drawn_by_transformers(flat)) == 50 < words
    assert len(drawn_by_transformers(flat, top_k=0)) == len(drawn_here(flat)) == words


def test_a_hub_config_brings_its_own_temperature(tokenizer):
    lm = random_qwen(tokenizer, dtype=torch.float32)
    expected = drawn_here(lm)
    lm.model.generation_config.temperature = 0.05
    lm.model.generation_config.top_p = 0.5
    assert len(drawn_by_transformers(lm, top_k=0)) < len(expected) / 4
    assert drawn_here(lm) == expected


def test_a_model_left_on_paged_attention_is_refused(tokenizer):
    """Continuous batching of transformers switches it on, and did not always switch it off."""
    lm, task = random_qwen(tokenizer, dtype=torch.float32), toy_task()
    models = Models(lm)
    batch = Sample(2, 5)(task.train, models, task, 0)
    expected = models.score(plain(batch), batch).logp
    lm.model.set_attn_implementation("paged|eager")
    for call in (
        lambda: models.score(plain(batch), batch),
        lambda: Whole(lm).admit([PROMPT], [1]),
    ):
        with pytest.raises(ValueError, match=r"left on the attention 'paged\|eager'.*'eager'"):
            call()
    lm.model.set_attn_implementation("sdpa")
    assert torch.equal(models.score(plain(batch), batch).logp, expected)


def test_continuous_batching_leaves_the_model_as_it_was(tokenizer):
    from transformers import ContinuousBatchingConfig, GenerationConfig

    lm, task = random_qwen(tokenizer, dtype=torch.float32), toy_task()
    models = Models(lm)
    batch = Sample(2, 5)(task.train, models, task, 0)
    expected = models.score(plain(batch), batch).logp
    how = GenerationConfig(max_new_tokens=3, do_sample=True, eos_token_id=4, pad_token_id=0)
    paged = ContinuousBatchingConfig(page_size=16, num_blocks=16, max_batch_tokens=64)
    found = lm.model.generate_batch([PROMPT], how, continuous_batching_config=paged)
    assert len(found) == 1
    assert torch.equal(models.score(plain(batch), batch).logp, expected)
