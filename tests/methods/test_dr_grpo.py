"""dr_grpo: no standard deviation, no length; RLOO's direction and the true gradient."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from autodidact.methods.dr_grpo import dr_grpo
from autodidact.methods.grpo import grpo
from toys import about, random_logits, rows_of

REWARDS = [1.0, 0.0, 0.25, 0.5]


def test_advantages_are_those_of_leave_one_out_times_n_minus_1_over_n():
    found = dr_grpo(n=4).credit(rows_of([2, 3, 1, 2], REWARDS), None).take("advantage")[:, 1]
    others = [r - (sum(REWARDS) - r) / 3 for r in REWARDS]
    assert found.tolist() == pytest.approx([3 / 4 * a for a in others], rel=1e-12)


def gradient(method, batch, logits):
    scores = about(batch, logits)
    batch = method.credit(batch.put(raw=scores.logp.detach()), None)
    values = method.loss({"policy": scores}, batch)
    return torch.autograd.grad((values * method.weigh(batch)).sum(), logits)[0]


def test_its_expectation_is_the_true_gradient_times_n_minus_1_over_n():
    """Every pair of one-token answers over three words, weighed by its probability."""
    law, worth = random_logits(3, seed=4), torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64)
    truth = torch.autograd.grad((law.softmax(-1) * worth).sum(), law)[0]
    mean = torch.zeros(3, dtype=torch.float64)
    for pair in product(range(3), repeat=2):
        batch = rows_of([1, 1], [float(worth[word]) for word in pair])
        batch.ids[:, 1] = torch.tensor(pair)
        logits = law.detach().repeat(2, 1).requires_grad_()
        chance = law.softmax(-1)[list(pair)].prod().detach()
        mean -= chance * gradient(dr_grpo(n=2, length=1), batch, logits).sum(0)
    assert torch.allclose(mean, truth / 2, rtol=1e-6, atol=1e-8)


def test_it_is_grpo_without_scale_when_every_answer_has_the_full_length():
    batch, logits = rows_of([5, 5, 5, 5], REWARDS), random_logits(20, 3)
    one = gradient(dr_grpo(n=4, length=5), batch, logits)
    assert torch.allclose(
        one, gradient(grpo(n=4, length=5, scale="none"), batch, logits), rtol=1e-6
    )


def test_the_weight_of_a_token_does_not_depend_on_its_row():
    weight = dr_grpo(n=4, length=10).weigh(rows_of([2, 7, 1, 3]))
    assert weight[weight > 0].tolist() == pytest.approx([1 / 40] * 13)
