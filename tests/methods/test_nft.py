"""nft: the implicit negative policy, and what it is at ratio 1."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.methods.dr_grpo import dr_grpo
from autodidact.methods.grpo import grpo
from autodidact.methods.nft import nft
from autodidact.methods.rft import rft
from toys import about, random_logits, rows_of

LENGTHS, REWARDS = [4, 1, 3, 2], [1.0, 0.0, 0.0, 0.0]


def gradient(method, ratio=1.0, lengths=LENGTHS, rewards=REWARDS):
    batch = rows_of(lengths, rewards)
    logits = random_logits(sum(lengths), 3)
    scores = about(batch, logits)
    old = scores.logp.detach() - math.log(ratio) * batch.own.double()
    batch = method.credit(batch.put(raw=old), None)
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, logits)[0]


def test_at_ratio_one_it_is_dr_grpo():
    """(checked) omega = 1 - r."""
    found = gradient(nft(n=4, length=7))
    assert found.abs().max() > 0.01
    assert torch.allclose(found, gradient(dr_grpo(n=4, length=7)), rtol=1e-10, atol=1e-14)


def test_with_the_root_it_is_grpo_with_the_std_of_n():
    """(checked) omega = sqrt((1 - r) / r); GRPO's own std has n - 1."""
    found = gradient(nft(n=4, omega="root", normalise="sequence"))
    other = math.sqrt(4 / 3) * gradient(grpo(n=4, eps=0.0))
    assert torch.allclose(found, other, rtol=1e-10, atol=1e-14)


def test_without_negatives_it_imitates_the_right_answers():
    """(checked) RFT, whose mean is over the tokens that it keeps."""
    rewards = [1.0, 0.0, 1.0, 0.0]
    found = gradient(nft(n=4, omega="one", neg_weight=0.0, normalise="sum"), rewards=rewards)
    batch, logits = rows_of(LENGTHS, rewards), random_logits(10, 3)
    kept = batch.own * (batch.take("reward") == 1)[:, None]
    values = rft(n=4).loss({"policy": about(batch, logits)}, batch)
    expected = torch.autograd.grad((values * kept).sum() / 4, logits)[0]
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("ratio", "slope"),
    [
        (1.0, 1 / 3),  # r / (1 - r)
        (2.0, 2 / 3),  # rho r / (1 - r): (1 - r rho) / (1 - r) = 2/3 is below the floor of 1
        (0.5, 0.5 / 3 / (0.875 / 0.75)),  # above it: damped
    ],
)
def test_the_slope_of_wrong_words_by_hand(ratio, slope):
    """d/d log p of -log max'((1 - r rho) / (1 - r), 1) with r = 1/4."""
    found = gradient(nft(n=4, omega="one", normalise="sum"), ratio)
    plainly = gradient(nft(n=4, omega="one", normalise="sum"))
    assert torch.allclose(found[4:], 3 * slope * plainly[4:], rtol=1e-6)
    assert torch.allclose(found[:4], plainly[:4], rtol=1e-10)  # the right ones have no ratio left


def test_the_two_laws_make_up_the_law_of_sampling():
    """mu = r p + (1 - r) p-, so the loss of a wrong word is -log p-/mu where no floor is at work."""
    law, mu, r = (random_logits(5, seed=s).detach().softmax(-1) for s in (0, 1, 2))
    rate = float((mu / law).min()) / 2
    negative = (mu - rate * law) / (1 - rate)
    assert float(negative.sum()) == pytest.approx(1) and (negative > 0).all() and len(r) == 5
    assert torch.allclose(negative / mu, (1 - rate * law / mu) / (1 - rate), rtol=1e-12)


def test_groups_all_right_or_all_wrong_teach_nothing_and_unscored_rows_neither():
    for rewards in ([1.0] * 4, [0.0] * 4, [0.5] * 4):
        assert not gradient(nft(n=4), rewards=rewards).any()
    found = gradient(nft(n=4), rewards=[1.0, 0.0, math.nan, 0.0])
    assert not found[5:8].any() and found[:5].any()


def test_values_stay_finite_far_away():
    for ratio in (1e-30, 1e30):
        assert gradient(nft(n=4), ratio).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"n": 1}, "n=1"), ({"omega": "roots"}, "root"), ({"floor": 0.0}, r"floor=0\.0")],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        nft(**arguments)
