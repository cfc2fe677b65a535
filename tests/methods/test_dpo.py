"""dpo: the log-sigmoid of the margin between a pair's implicit rewards."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.methods.dpo import dpo
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.rollouts.choose import BestAndWorst
from autodidact.rollouts.given import GivenPairs
from autodidact.rollouts.sample import Sample
from toys import about, pair_loss, toy_task, two_pairs

BETA = 0.3


@pytest.fixture
def pairs():
    return two_pairs()


def margins(batch, policy, reference, beta=BETA):
    gaps = about(batch, policy).logp - about(batch, reference).logp
    rewards = beta * gaps.sum(1)
    return torch.stack([rewards[0] - rewards[1], rewards[2] - rewards[3]])


def test_it_is_the_mean_over_pairs_of_the_formula(pairs):
    batch, policy, reference = pairs
    h = margins(batch, policy, reference)
    for smoothing in (0.0, 0.2):
        expected = (
            -(1 - smoothing) * torch.sigmoid(h).log() - smoothing * torch.sigmoid(-h).log()
        ).mean()
        found = pair_loss(dpo(BETA, smoothing), batch, policy, reference)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-7)


def test_at_the_reference_the_loss_is_log_2_and_its_slope_in_the_margin_is_minus_a_half(pairs):
    batch, policy, _ = pairs
    found = pair_loss(dpo(BETA), batch, policy, policy.detach())
    assert float(found.detach()) == pytest.approx(math.log(2), rel=1e-7)
    gradient = torch.autograd.grad(found, policy)[0]
    half = torch.autograd.grad(-0.5 * margins(batch, policy, policy.detach()).mean(), policy)[0]
    assert torch.allclose(gradient, half, rtol=1e-6, atol=1e-10)


def test_smoothing_scales_the_slope_at_the_reference_by_one_minus_twice_itself(pairs):
    batch, policy, _ = pairs
    plain, smooth = (
        torch.autograd.grad(pair_loss(dpo(BETA, e), batch, policy, policy.detach()), policy)[0]
        for e in (0.0, 0.2)
    )
    assert torch.allclose(smooth, 0.6 * plain, rtol=1e-6, atol=1e-10)


def test_a_small_beta_makes_it_linear(pairs):
    batch, policy, reference = pairs
    beta = 1e-4
    found = pair_loss(dpo(beta), batch, policy, reference)
    h = margins(batch, policy, reference, beta).mean()
    assert float(found.detach() - math.log(2)) == pytest.approx(float(-h.detach() / 2), rel=1e-3)


def test_shifting_all_logits_at_one_place_changes_nothing(pairs):
    batch, policy, reference = pairs
    shift = torch.zeros_like(policy)
    shift[4] = 7.0
    found = pair_loss(dpo(BETA), batch, policy + shift, reference).detach()
    assert float(found) == pytest.approx(
        float(pair_loss(dpo(BETA), batch, policy, reference).detach()), rel=1e-12
    )


def test_weights_that_broke_are_not_hidden(pairs):
    batch, policy, reference = pairs
    assert pair_loss(dpo(BETA), batch, policy * torch.nan, reference).isnan()


def test_the_signal_is_the_implicit_reward_of_each_token(pairs):
    batch, policy, reference = pairs
    scores = {"policy": about(batch, policy), "reference": about(batch, reference)}
    method = dpo(BETA)
    signal = method.signal(scores, batch, method.loss(scores, batch))
    rewards = signal.sum(1)
    h = margins(batch, policy, reference).detach()
    assert torch.allclose(torch.stack([rewards[0] - rewards[1], rewards[2] - rewards[3]]), h)


def test_drawn_pairs_are_the_best_and_the_worst_of_each_problem(qwen):
    task, models = toy_task(8), Models(qwen)
    pairs = BestAndWorst(4, 3)(task.train, models, task, 0)
    everything = Sample(4, 3)(task.train, models, task, 0)
    texts = [
        qwen.decode(i[o].tolist()) for i, o in zip(everything.ids, everything.own, strict=True)
    ]
    rewards = torch.tensor(task.reward(everything.rows, texts)).view(8, 4)
    spread = rewards.max(1).values > rewards.min(1).values
    assert int(spread.sum()) > 0
    expected = torch.stack([rewards.max(1).values, rewards.min(1).values], 1)[spread]
    assert pairs.take("reward").view(-1, 2).tolist() == expected.tolist()
    assert pairs.take("side").tolist() == [1.0, -1.0] * int(spread.sum())
    assert [p.question for p in pairs.rows[::2]] == [
        p.question for p, s in zip(task.train, spread.tolist(), strict=True) if s
    ]


def test_given_pairs_are_read_from_the_columns(qwen):
    task = toy_task(2)
    batch = GivenPairs()(task.train, Models(qwen), task, 0)
    texts = [qwen.decode(i[o].tolist()) for i, o in zip(batch.ids, batch.own, strict=True)]
    assert texts == [p.meta[side] for p in task.train for side in ("chosen", "rejected")]
    assert batch.group.tolist() == [0, 0, 1, 1]
    bare = [Problem("1+1", meta={"chosen": "2"})]
    with pytest.raises(ValueError, match="no column 'rejected'; it has \\['chosen'\\]"):
        GivenPairs()(bare, Models(qwen), task, 0)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5])
def test_smoothing_is_bounded(smoothing):
    with pytest.raises(ValueError, match=f"smoothing={smoothing}"):
        dpo(smoothing=smoothing)


def test_a_pair_takes_two_answers():
    with pytest.raises(ValueError, match="n=1"):
        dpo(n=1)
