"""wd1: softmax weights of a group, by hand and where they meet REINFORCE."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from autodidact.credits.group import group_advantage
from autodidact.methods.wd1 import wd1
from toys import about, random_logits, rows_of

LENGTHS = [3, 1, 2, 2]
FRESH = SimpleNamespace(ledger=SimpleNamespace(optimizer_steps=0))
"""What its credit asks of the models: how many updates were made."""


def credited(rewards, lengths=LENGTHS, **options):
    ones = [1.0] * sum(lengths)
    batch = rows_of(lengths, rewards, order=ones, canvas=ones)
    return wd1(n=len(lengths), **options).credit(batch, FRESH)


def advantages(rewards, **options):
    batch = credited(rewards, [2] * len(rewards), **options)
    return batch.take("advantage")[:, 1]


def test_equal_rewards_weigh_exactly_nothing_and_a_shift_changes_nothing():
    """(checked)"""
    assert not advantages([0.3, 0.3, 0.3]).any()
    rewards = torch.tensor([1.0, 0.1, 0.0, 2.5], dtype=torch.float64)
    assert torch.allclose(advantages(rewards), advantages(rewards + 7), rtol=1e-12)
    assert float(advantages(rewards).sum()) == pytest.approx(0, abs=1e-12)


def test_of_two_answers_the_weight_is_a_hyperbolic_tangent():
    for gap in (0.5, 2.0, 9.0):
        expected = 2 * math.tanh(3 * gap / 2)
        found = advantages([gap, 0.0], sharpness=3.0)
        assert found.tolist() == pytest.approx([expected, -expected], rel=1e-12)


def test_the_loss_is_the_difference_of_two_weighed_sums():
    """L = -sum softmax(R)_i lp_i + sum softmax(-R)_i lp_i, lp_i the sum over the row."""
    rewards = torch.tensor([1.0, 0.0, 0.1, 2.5], dtype=torch.float64)
    logits = random_logits(sum(LENGTHS), 3)
    batch = credited(rewards)
    method, scores = wd1(n=4), {"policy": about(batch, logits)}
    found = (method.loss(scores, batch) * method.weigh(batch)).sum()
    rows = scores["policy"].logp.sum(1)
    expected = ((-rewards).softmax(0) - rewards.softmax(0)) @ rows
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_much_sharpness_leaves_the_best_and_the_worst():
    found = advantages([1.0, 0.0, 0.5, 0.9], sharpness=1e6)
    assert found.tolist() == [4.0, -4.0, 0.0, 0.0]


def test_little_sharpness_is_reinforce_with_a_baseline():
    rewards = [1.0, 0.0, 0.1, 2.5]
    batch = rows_of([2] * 4, rewards)
    plain = group_advantage(batch, "none").take("advantage")[:, 1]
    found = advantages(rewards, sharpness=1e-5) / 2e-5
    assert torch.allclose(found, plain, rtol=1e-8)


def test_a_row_without_a_reward_is_left_out():
    found = advantages([1.0, math.nan, 0.0, 0.25])
    alone = advantages([1.0, 0.0, 0.25])
    assert found[1] == 0
    assert torch.allclose(found[[0, 2, 3]], alone, rtol=1e-12)


def test_older_weights_are_not_asked_and_one_answer_is_no_group():
    assert "before" not in credited([1.0, 0.0, 0.1, 2.5]).streams
    with pytest.raises(ValueError, match="n=1"):
        wd1(n=1)
