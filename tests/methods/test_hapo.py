"""hapo: advantages over tokens, what the entropy makes of them, and the clips, all by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.credits.group import group_mean
from autodidact.losses.importance import Correction
from autodidact.losses.policy import clipped
from autodidact.methods.dapo import dapo
from autodidact.methods.hapo import hapo
from toys import about, random_logits, rows_of

LENGTHS, REWARDS = [4, 2, 3], [1.0, 0.0, 0.25]
ENTROPY = [0.1, 1.5, 0.5, 2.0, 0.05, 0.8, 1.1, 0.3, 0.6]


def drawn(lengths=LENGTHS, rewards=REWARDS, entropy=ENTROPY, apart=0.0):
    """A batch, and the scores of a policy that has moved from it by `apart` nats a token."""
    count = sum(lengths)
    batch = rows_of(lengths, rewards, entropy=entropy[:count])
    scores = about(batch, random_logits(count, 3).detach())
    raw = torch.where(batch.own, scores.logp, 0.0)
    raw = raw.masked_scatter(batch.own, scores.logp[batch.own] - apart)
    return batch.put(raw=raw, logp=raw), scores


def test_advantages_over_tokens_have_mean_zero_and_variance_one():
    """Token-weighted, with the deviation of n: mean 0 and variance s^2 / (s + 1e-6)^2."""
    batch, _ = drawn()
    found = hapo(n=3).credit(batch, None).take("advantage")[batch.own]
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)
    assert float(found.var(correction=0)) == pytest.approx(1, rel=1e-5)
    rewards = torch.tensor([1.0] * 4 + [0.0] * 2 + [0.25] * 3).double()
    wanted = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_equal_lengths_make_them_those_of_grpo_with_the_deviation_of_n():
    batch, _ = drawn([2, 2, 2], entropy=ENTROPY[:6])
    found = hapo(n=3).credit(batch, None).take("advantage")[:, 1]
    rewards = batch.take("reward")
    wanted = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_a_group_with_a_large_advantage_falls_back_to_rows():
    """One short right answer among long wrong ones is 5 deviations away, over tokens."""
    lengths, rewards = [1, 29], [1.0, 0.0]
    batch, _ = drawn([*lengths, 2, 3], [*rewards, 1.0, 0.0], [0.5, 1.0] * 18)
    batch = replace(batch, group=torch.tensor([0, 0, 1, 1]))
    found = hapo(n=2).credit(batch, None).take("advantage")[:, 1]
    assert math.sqrt(29) > 5
    assert found[:2].tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)], rel=1e-5)
    assert found[2:].tolist() == pytest.approx([math.sqrt(3 / 2), -math.sqrt(2 / 3)], rel=1e-5)


def test_a_row_without_a_reward_counts_nowhere():
    batch, _ = drawn(rewards=[1.0, math.nan, 0.25])
    found = hapo(n=3).credit(batch, None).take("advantage")
    assert not found[1].any()
    rewards = torch.tensor([1.0] * 4 + [0.25] * 3).double()
    wanted = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    assert torch.allclose(found[[0, 2]][batch.own[[0, 2]]], wanted, rtol=1e-12)


def places(entropy, share=0.8):
    logs = torch.tensor(entropy).double().log()
    e = logs - logs.quantile(share)
    return torch.where(e > 0, e / e.max(), e / -e.min())


def test_the_place_of_an_entropy_runs_from_minus_one_to_one():
    """(log H - q) over its extreme of that sign, as the batch's deviation cancels."""
    batch, _ = drawn()
    for legacy in (False, True):
        found = hapo(n=3, legacy_sign=legacy).credit(batch, None).take("heat")
        wanted = places(ENTROPY)
        wanted = wanted.abs() if legacy else wanted
        assert torch.allclose(found[batch.own], wanted, rtol=1e-6, atol=1e-9)
        assert not found[~batch.own].any()
        assert float(found.max()) == 1 and (float(found.min()) == -1) == (not legacy)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_loss_by_hand(legacy):
    """A (1 + h) where h > 0 and rho is outside half the clips, or h <= 0 and it is inside; the
    lower clip is 1 - h times as wide where h <= 0, the upper one 1 + h times where h > 0."""
    apart = torch.tensor([0.05, 0.3, -0.4, 0.02, 0.5, -0.05, 0.15, -0.13, 0.01]).double()
    batch, scores = drawn(apart=apart)
    method = hapo(n=3, legacy_sign=legacy)
    batch = method.credit(batch, None)
    value = method.loss({"policy": scores}, batch)[batch.own].tolist()
    heat = places(ENTROPY).abs() if legacy else places(ENTROPY)
    seen = set()
    for found, a, h, gap in zip(
        value, batch.take("advantage")[batch.own].tolist(), heat.tolist(), apart.tolist(),
        strict=True,
    ):  # fmt: skip
        rho = math.exp(gap)
        inside = 0.9 <= rho <= 1.1
        if (h > 0 and not inside) or (h <= 0 and inside):
            a *= 1 + h
        low, high = 0.2 * (1 - h) if h <= 0 else 0.2, 0.2 * (1 + h) if h > 0 else 0.2
        assert found == pytest.approx(-min(rho * a, min(max(rho, 1 - low), 1 + high) * a), rel=1e-5)
        seen.add((h > 0, inside))
    assert legacy or len(seen) == 4, "every branch"


def test_equal_entropies_make_it_dapo_with_advantages_over_tokens():
    batch, scores = drawn(entropy=[0.7] * 9, apart=random_logits(9, seed=2, size=0.3).detach())
    method = hapo(n=3)
    found = method.credit(batch, None)
    assert not found.take("heat").any()
    plain = dapo(n=3, clip_high=0.2, waves=1)
    values = method.loss({"policy": scores}, found), plain.loss({"policy": scores}, found)
    assert torch.equal(*values) and torch.equal(method.weigh(found), plain.weigh(found))


def test_the_loss_of_a_wrong_token_is_bounded():
    batch, scores = drawn(apart=torch.full((9,), 5.0).double())
    method = hapo(n=3, dual=3.0)
    found = method.credit(batch.put(entropy=batch.own * 0.7), None)
    value, a = method.loss({"policy": scores}, found), found.take("advantage")
    assert torch.allclose(value[a < 0], -3 * a[a < 0], rtol=1e-12) and (a < 0).any()


def test_what_was_heated_is_weighed_back():
    """Advantages times min(exp(raw - logp), cap); the loss is that of the weighed surrogate."""
    batch, scores = drawn()
    gap = random_logits(9, seed=7, size=0.5).detach()
    logp = batch.take("raw").masked_scatter(batch.own, batch.take("raw")[batch.own] - gap)
    batch = batch.put(logp=logp)
    weight = Correction("token", 1.3).weights(batch.take("raw"), logp, batch.own)
    assert torch.allclose(weight[batch.own], gap.exp().clamp(max=1.3), rtol=1e-9)
    corrected, plainly = hapo(n=3, cap=1.3), hapo(n=3, correct=None)
    one, two = corrected.credit(batch, None), plainly.credit(batch, None)
    assert torch.allclose(one.take("advantage"), two.take("advantage") * weight, rtol=1e-12)
    values = corrected.loss({"policy": scores}, one), plainly.loss({"policy": scores}, two)
    assert torch.allclose(values[0][batch.own], (values[1] * weight)[batch.own], rtol=1e-12)


def test_weights_and_clips_carry_no_gradient():
    batch, _ = drawn()
    method = hapo(n=3)
    batch = method.credit(batch, None)
    logits = random_logits(9, 3)
    scores = about(batch, logits)
    found = torch.autograd.grad(method.loss({"policy": scores}, batch)[batch.own].sum(), logits)[0]
    heat, a = batch.take("heat"), batch.take("advantage")
    ratio = (scores.logp - batch.take("raw")).detach().exp()
    inside = (ratio >= 0.9) & (ratio <= 1.1)
    fixed = a * torch.where((heat > 0) != inside, 1 + heat, 1.0)
    low, high = 0.2 * (1 + (-heat).clamp(min=0)), 0.2 * (1 + heat.clamp(min=0))
    plain = clipped(scores.logp, batch.take("raw"), fixed, low, high, 10.0)
    wanted = torch.autograd.grad(plain[batch.own].sum(), logits)[0]
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-14) and wanted.abs().max() > 0.01


def test_equal_rewards_teach_nothing():
    batch, _ = drawn(rewards=[0.5, 0.5, 0.5])
    assert not hapo(n=3).credit(batch, None).take("advantage").any()
    assert group_mean(batch.take("reward"), batch.group).tolist() == [0.5] * 3


@pytest.mark.parametrize("wrong", [{"n": 1}, {"gain": 1.0}, {"share": 2.0}, {"cap": 0.5}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least|gain|quantile|cap"):
        hapo(**wrong)
