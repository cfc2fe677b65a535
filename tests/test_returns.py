"""Returns and advantages along a row: closed forms, tools that are passed over, and penalties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.credits.returns import at_end, gae, k1_penalty, to_go
from toys import random_logits, rows_of


def spread(batch, values):
    """Values for the own tokens, laid out; elsewhere numbers that must not be looked at."""
    return torch.full(batch.own.shape, 7.0, dtype=torch.float64).masked_scatter(batch.own, values)


def with_tool():
    """Two rows of 6 and 3 tokens; tokens 2 and 3 of the first are a tool's."""
    batch = rows_of([6, 3])
    own = batch.own.clone()
    own[0, 3:5] = False
    return replace(batch, own=own)


def by_hand(rewards, values, gamma, lam):
    """The definition: A_t = sum_l prod_{j<l} (gamma_j lam_j) d_{t+l}, for one row."""
    beyond = [*values[1:], 0.0]
    deltas = [r + g * b - v for r, v, b, g in zip(rewards, values, beyond, gamma, strict=True)]
    found = []
    for t in range(len(values)):
        factor, advantage = 1.0, 0.0
        for s in range(t, len(values)):
            advantage += factor * deltas[s]
            factor *= gamma[s] * lam[s]
        found.append(advantage)
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.95), (0.5, 0.0), (0.0, 1.0)])
def test_advantages_are_the_discounted_sum_of_errors_over_own_tokens(gamma, lam):
    batch = with_tool()
    rewards, values = (spread(batch, random_logits(7, seed=seed).detach()) for seed in (1, 2))
    advantage, returns = gae(rewards, values, batch.own, gamma, lam)
    for row in range(2):
        own = batch.own[row]
        r, v = rewards[row][own].tolist(), values[row][own].tolist()
        expected = by_hand(r, v, [gamma] * len(v), [lam] * len(v))
        assert advantage[row][own].tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.allclose(returns[batch.own], (advantage + values)[batch.own], atol=1e-12)
    assert not advantage[~batch.own].any() and not returns[~batch.own].any()


def test_rates_of_each_step_are_those_from_a_token_to_the_next():
    batch = with_tool()
    rewards, values, rate, trace = (
        spread(batch, random_logits(7, seed=seed).detach().sigmoid()) for seed in (1, 2, 3, 4)
    )
    found = gae(rewards, values, batch.own, rate, trace)[0]
    for row in range(2):
        lists = [each[row][batch.own[row]].tolist() for each in (rewards, values, rate, trace)]
        assert found[row][batch.own[row]].tolist() == pytest.approx(by_hand(*lists), abs=1e-12)


def test_without_discount_an_advantage_is_the_return_less_the_value():
    batch = with_tool()
    rewards, values = (spread(batch, random_logits(7, seed=s).detach()) for s in (1, 2))
    advantage, returns = gae(rewards, values, batch.own)
    later = to_go(rewards, batch.own)
    assert torch.allclose(returns, later, atol=1e-12)
    assert torch.allclose(advantage, (later - values) * batch.own, atol=1e-12)


def test_a_tool_is_passed_over_as_if_it_were_not_there():
    """Multiplying by the mask instead forgets what comes after the tool."""
    batch, plain = with_tool(), rows_of([4, 3])
    rewards, values = (random_logits(7, seed=seed).detach() for seed in (1, 2))
    found = gae(spread(batch, rewards), spread(batch, values), batch.own, 0.9, 0.95)[0]
    short = gae(spread(plain, rewards), spread(plain, values), plain.own, 0.9, 0.95)[0]
    assert torch.equal(found[batch.own], short[plain.own])

    masked, later = torch.zeros_like(found), torch.zeros(2, dtype=torch.float64)
    value = torch.where(batch.own, spread(batch, values), 0.0)
    beyond = torch.nn.functional.pad(value, (0, 1))[:, 1:]
    delta = (spread(batch, rewards) + 0.9 * beyond - value) * batch.own
    for t in reversed(range(found.shape[1])):
        later = (delta[:, t] + 0.9 * 0.95 * later) * batch.own[:, t]
        masked[:, t] = later
    assert torch.allclose(masked[1], found[1]) and torch.allclose(masked[0, 5:], found[0, 5:])
    assert (masked[0, 1:3] - found[0, 1:3]).abs().min() > 1e-3


def test_the_reward_stands_at_the_last_own_token():
    batch = with_tool()
    own = batch.own.clone()
    own[0, 6] = False
    found = at_end(torch.tensor([0.5, math.nan], dtype=torch.float64), own)
    assert found[0, 5] == 0.5, "the last own token of the row"
    assert float(found.sum()) == 0.5 and not found[1].any()
    discounted = to_go(found, own, 0.9)
    places = own[0].nonzero().flatten().tolist()
    expected = [0.5 * 0.9 ** (len(places) - 1 - i) for i in range(len(places))]
    assert discounted[0][own[0]].tolist() == pytest.approx(expected, rel=1e-12)


def test_the_penalty_is_the_log_ratio_without_gradient():
    batch = with_tool()
    logp = spread(batch, random_logits(7, seed=1).detach()).requires_grad_()
    reference = spread(batch, random_logits(7, seed=2).detach())
    found = k1_penalty(batch, logp, reference)
    assert not found.requires_grad and not found[~batch.own].any()
    assert torch.equal(found[batch.own], (reference - logp.detach())[batch.own])
