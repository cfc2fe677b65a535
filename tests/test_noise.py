"""Gradient noise: its estimates by hand, on gradients that are known."""

from __future__ import annotations

import pytest
import torch

from autodidact import noise as module
from autodidact.learn import Gradients
from autodidact.methods.grpo import grpo
from autodidact.methods.sft import sft
from autodidact.models import Models
from autodidact.noise import gradient_noise
from toys import random_qwen, toy_task


def test_variance_and_square_are_those_of_the_formulas(tokenizer, monkeypatch):
    known = iter(torch.tensor([[3.0, 0.0], [1.0, 2.0], [2.0, 1.0]]).double())
    monkeypatch.setattr(module, "gradients", lambda *_: Gradients([next(known)], []))
    found = gradient_noise(sft(), Models(random_qwen(tokenizer)), toy_task(), 4, 3)
    assert found.variance == pytest.approx((2 + 2 + 0) / 2)  # about the mean (2, 1)
    assert found.square == pytest.approx(5 - 2 / 3)
    assert found.tokens == 0 and found.scale == 0


def test_estimates_are_unbiased_and_may_say_that_nothing_is_known(tokenizer, monkeypatch):
    random = torch.Generator().manual_seed(0)
    models, task = Models(random_qwen(tokenizer)), toy_task()
    monkeypatch.setattr(
        module,
        "gradients",
        lambda *_: Gradients([torch.randn(4, generator=random).double() + 1], []),
    )
    found = [gradient_noise(sft(), models, task, 4, 4) for _ in range(400)]
    assert sum(f.variance for f in found) / 400 == pytest.approx(4, abs=0.25)
    assert sum(f.square for f in found) / 400 == pytest.approx(4, abs=0.25)
    silent = module.Noise(variance=1.0, square=-0.1, tokens=10.0)
    assert silent.scale is None


def test_nothing_is_updated_or_charged(tokenizer):
    models, task = Models(random_qwen(tokenizer)), toy_task(16)
    before = [p.clone() for p in models.policy.model.parameters()]
    found = gradient_noise(grpo(n=4, length=6), models, task, 16, 3)
    assert found.variance > 0 and found.tokens > 0
    assert models.ledger.generated == models.ledger.student_forward == 0
    assert all(map(torch.equal, before, models.policy.model.parameters()))
    assert all(p.grad is None for p in models.policy.model.parameters())


def test_one_batch_says_nothing_about_noise(tokenizer):
    with pytest.raises(ValueError, match="at least 2"):
        gradient_noise(sft(), Models(random_qwen(tokenizer)), toy_task(), 4, 1)
