"""What a frozen teacher said is looked up instead of computed again, and is the same."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.gkd import gkd
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.remembered import States, precompute
from autodidact.run import Run
from autodidact.train import Training
from toys import random_qwen, toy_task


class Reads:
    """Counts rows that pass through the trunk without gradient."""

    def __init__(self, lm):
        self.count = 0
        lm.base.base_model.register_forward_pre_hook(self._pass, with_kwargs=True)

    def _pass(self, trunk, args, kwargs):
        self.count += 0 if torch.is_grad_enabled() else int(kwargs["attention_mask"].sum())


def trained(tokenizer, states, method, epochs_of_data: int = 2):
    models = Models(random_qwen(tokenizer, dtype=torch.float32))
    models.states = states
    task = toy_task(4)
    training = Training(method, models, task, Run(steps=2 * epochs_of_data, rows=2, lr=1e-2))
    lines = [training.advance()[1] for _ in range(2 * epochs_of_data)]
    return models, lines


@pytest.mark.parametrize("method", [gkd(on_policy=0.0, divergence="forward"), opsd(length=5)])
def test_numbers_do_not_change(tokenizer, tmp_path, method):
    plain_models, plain_lines = trained(tokenizer, None, method)
    kept_models, kept_lines = trained(tokenizer, States(tmp_path / "states"), method)
    for one, two in zip(plain_lines, kept_lines, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
    pairs = zip(
        plain_models.policy.model.parameters(), kept_models.policy.model.parameters(), strict=True
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_a_row_is_read_once(tokenizer, tmp_path):
    states, method = States(tmp_path / "states"), gkd(on_policy=0.0, divergence="forward")
    models = Models(random_qwen(tokenizer, dtype=torch.float32))
    models.states, task = states, toy_task(4)
    assert models["initial"].packs  # tried out before the count starts
    reads = Reads(models["initial"])
    assert precompute(method, models, task) == 4 == len(states)
    first, charged = reads.count, models.ledger.teacher_forward
    assert first > 0 and charged == first
    assert precompute(method, models, task, rows=3) == 4 == len(states)
    assert reads.count == first, "nothing was read again"
    assert models.ledger.teacher_forward > charged, "and it is paid for"


def test_another_prompt_is_another_row(tokenizer, tmp_path):
    """A teacher who is told something is not the one who is not."""
    states = States(tmp_path / "states")
    trained(tokenizer, states, opsd(length=4), 1)
    before = len(states)
    trained(tokenizer, states, opsd(length=4, context="none"), 1)
    assert len(states) > before > 0


def test_moving_teachers_are_not_remembered(tokenizer, tmp_path):
    for teacher in ("policy", "ema:0.5", "copy:1"):
        states = States(tmp_path / teacher.replace(":", "-"))
        trained(tokenizer, states, opsd(length=4, teacher=teacher), 1)
        assert len(states) == 0


def test_there_must_be_a_file(tokenizer):
    with pytest.raises(ValueError, match="no file to remember in"):
        precompute(gkd(on_policy=0.0), Models(random_qwen(tokenizer)), toy_task(2))
