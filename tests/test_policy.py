"""losses/policy: estimators of the divergence, bounds of the ratio, its levels, the bonus.

Expectations are sums over three words; everything is exact in float64.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from autodidact import calls
from autodidact.losses.policy import Surrogate, capped, clipped, k3, of_rows, penalty
from autodidact.losses.weights import normalised
from toys import about, random_logits, rows_of

LENGTHS = [4, 1, 3]


@pytest.fixture
def pair():
    """Logits of the policy and log-probabilities of the reference."""
    return random_logits(3), random_logits(3, seed=1).detach().log_softmax(-1)


def kl(a, b):
    return (a.exp() * (a - b)).sum()


def slope(value, logits):
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


def estimates(kind, logits, reference):
    """The estimate at each of the three words, drawn by the policy."""
    logp = logits.log_softmax(-1)
    return penalty(kind, logp[None], reference[None], logp.detach()[None])[0]


# ------------------------------------------------------------------ estimators


@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [
        ("k2", None, "reverse"),
        ("k3", "reverse", "forward"),
        ("k3_plus", "reverse", "reverse"),
        ("k3_ratio", "reverse", "reverse"),
    ],
)
def test_the_table_of_estimators(kind, value, gradient, pair):
    """(checked) Their values and gradients on average; reverse is KL(policy, reference)."""
    logits, reference = pair
    chance = logits.softmax(-1).detach()
    sides = {
        "reverse": kl(logits.log_softmax(-1), reference),
        "forward": kl(reference, logits.log_softmax(-1)),
    }
    mean = (chance * estimates(kind, logits, reference)).sum()
    if value is None:
        assert abs(float((mean - sides["reverse"]).detach())) > 0.01, "biased"
    else:
        assert float(mean.detach()) == pytest.approx(float(sides[value].detach()), rel=1e-12)
    found = slope(mean, logits)
    for name, side in sides.items():
        same = torch.allclose(found, slope(side, logits), rtol=1e-10, atol=1e-14)
        assert same is (name == gradient)


def test_the_log_ratio_as_a_loss_says_nothing_and_is_refused(pair):
    """(checked) E[grad k1] = 0 whatever the reference; KL(policy, reference) is its mean."""
    logits, reference = pair
    chance, values = logits.softmax(-1).detach(), logits.log_softmax(-1) - reference
    mean = (chance * values).sum()
    with torch.no_grad():
        assert float(mean) == pytest.approx(float(kl(logits.log_softmax(-1), reference)), rel=1e-12)
    assert float(slope(mean, logits).abs().max()) < 1e-15
    with pytest.raises(ValueError, match="expected gradient of zero"):
        Surrogate(kl=0.1, kl_kind="k1")


def test_only_the_ratio_is_right_for_tokens_that_another_law_drew(pair):
    """E_mu[p/mu k3] has the value and gradient of KL(policy, reference)."""
    logits, reference = pair
    mu = random_logits(3, seed=2).detach().log_softmax(-1)
    logp = logits.log_softmax(-1)
    reverse = kl(logp, reference)
    right = (mu.exp() * penalty("k3_ratio", logp[None], reference[None], mu[None])[0]).sum()
    assert float(right.detach()) == pytest.approx(float(reverse.detach()), rel=1e-12)
    wanted = slope(reverse, logits)
    assert torch.allclose(slope(right, logits), wanted, rtol=1e-10, atol=1e-14)
    again = logits.log_softmax(-1)
    plus = (mu.exp() * penalty("k3_plus", again[None], reference[None], mu[None])[0]).sum()
    assert not torch.allclose(slope(plus, logits), wanted, rtol=0.05)


def test_k3_plus_has_the_values_of_k3_word_by_word(pair):
    logits, reference = pair
    values = k3(logits.log_softmax(-1)[None], reference[None])[0]
    assert torch.allclose(estimates("k3_plus", logits, reference), values, rtol=1e-14)


# ------------------------------------------------------------------ bounds of the ratio


def at(ratio, advantage, loss):
    """Value and slope in log p at one token of this ratio."""
    logp = torch.tensor([[math.log(ratio) - 2.0]], dtype=torch.float64, requires_grad=True)
    old, a = torch.full_like(logp, -2.0), torch.full_like(logp, advantage)
    value = loss(logp, old, a)
    return value.item(), slope(value.sum(), logp).item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (2.5, -2.0, 5.0, 5.0),  # below the bound: as without it
        (4.0, -2.0, 6.0, 0.0),  # beyond: -dual A, and no gradient
        (4.0, 2.0, -2.4, 0.0),  # good: the clip alone
        (1.1, 2.0, -2.2, -2.2),
    ],
)
def test_the_dual_bound_by_hand(ratio, advantage, value, gradient):
    found = at(ratio, advantage, lambda *x: clipped(*x, 0.2, 0.2, dual=3.0))
    assert found == pytest.approx((value, gradient), rel=1e-12)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_clip_cap_and_reinforce_have_one_gradient_at_ratio_one(advantage):
    """(checked)"""
    expected = pytest.approx(-advantage, rel=1e-12)
    assert at(1.0, advantage, lambda *x: clipped(*x, 0.2, 0.3))[1] == expected
    assert at(1.0, advantage, lambda *x: capped(*x, 0.2, 0.3))[1] == expected
    assert at(1.0, advantage, lambda logp, old, a: -a * logp)[1] == expected


def test_at_ratio_1_65_the_clip_is_silent_and_the_cap_is_not():
    """(checked)"""
    assert at(1.65, 1.0, lambda *x: clipped(*x, 0.2, 0.2))[1] == 0
    assert at(1.65, 1.0, lambda *x: capped(*x, 0.2, 0.2))[1] == pytest.approx(-1.2, rel=1e-12)
    assert at(1.65, 1.0, lambda *x: capped(*x, 1.0, 4.0))[1] == pytest.approx(-1.65, rel=1e-12)


def test_streams_take_the_place_of_the_widths():
    batch, logits = rows_of([2], advantage=[1.0, 1.0]), random_logits(2, 3)
    scores = {"policy": about(batch, logits)}
    batch = batch.put(raw=scores["policy"].logp.detach() - 0.3 * batch.own.double())
    wide = rows_of([2], clip_low=[0.2, 0.2], clip_high=[0.1, 0.9]).streams
    found = Surrogate().loss(scores, batch.put(**wide))[batch.own]
    assert found.tolist() == pytest.approx([-1.1, -math.exp(0.3)], rel=1e-12)


# ------------------------------------------------------------------ levels


def test_a_ratio_of_rows_has_one_gradient_in_both_forms():
    """(checked) For an advantage that is constant along a row."""
    batch, logits = rows_of(LENGTHS), random_logits(8, 3)
    old = about(batch, random_logits(8, 3, seed=1)).logp.detach()
    advantage = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) * batch.own
    weight = normalised("sequence", 0)(batch)
    found = []
    for each in (False, True):
        now = of_rows(about(batch, logits).logp, old, batch.own, each=each)
        loss = clipped(now, torch.zeros_like(now), advantage, 0.1, 0.1)
        found.append((loss.detach(), slope((loss * weight).sum(), logits)))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-10, atol=1e-14)


# ------------------------------------------------------------------ totals and the bonus


def test_all_ways_to_normalise_agree_up_to_a_factor_for_equal_lengths():
    """(checked)"""
    batch, weights = rows_of([4, 4, 4]), {}
    for kind in ("token", "sequence", "constant", "sum"):
        weights[kind] = normalised(kind, 10)(batch)[batch.own]
        assert weights[kind].unique().numel() == 1
    assert weights["token"][0] == weights["sequence"][0] == pytest.approx(1 / 12)
    assert weights["constant"][0] == pytest.approx(1 / 30)
    assert weights["sum"][0] == pytest.approx(1 / 3)
    apart = rows_of(LENGTHS)
    assert normalised("sequence", 10)(apart)[apart.own].unique().numel() == 3


def test_the_bonus_climbs_the_entropy():
    """-c H, with dH/dz = -p (log p + H)."""
    batch, logits = rows_of([3, 2], advantage=[0.0] * 5), random_logits(5, 3)
    scores = {"policy": about(batch, logits)}
    batch = batch.put(raw=scores["policy"].logp.detach())
    value = Surrogate(entropy=0.3).loss(scores, batch)
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    assert torch.allclose(value[batch.own], -0.3 * entropy, rtol=1e-10)
    expected = 0.3 * logp.exp() * (logp + entropy[:, None])
    assert torch.allclose(slope(value.sum(), logits), expected.detach(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"kind": "clips"}, "clip"), ({"level": "row"}, "sequence"), ({"kl_kind": "k4"}, "k3")],
)
def test_unknown_names_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Surrogate(**options)


def test_every_call_on_the_page_of_settings_makes_a_method():
    page = Path(__file__).parents[1] / "docs" / "rlvr.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    found = [call for line in lines for call in re.findall(r"`(\w+\([^`]*\))`", line)]
    assert len(found) > 25
    for call in found:
        assert calls.make(calls.method, calls.parse(call)).name == call.partition("(")[0]
