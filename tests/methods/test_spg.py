"""spg: both surrogates by hand, their limits and bounds, and the canvases of blocks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from autodidact.losses.sandwich import Sandwich
from autodidact.methods.spg import spg
from toys import rows_of

BOTH = torch.tensor([[2.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
"""Weights of all draws for two tokens: the first hidden alone, the second alone, both, both."""


def two_tokens(advantage: float, share=BOTH):
    """A row of two tokens, and the weights of each draw, as a batch."""
    batch = rows_of([2], advantage=[advantage] * 2)
    whole = torch.zeros(1, 3, share.shape[1], dtype=torch.float64)
    whole[0, 1:] = share
    return batch.put(share=whole)


def of_draws(logp):
    """Scores of each draw, given [2, draws] log-probabilities."""
    padded = torch.nn.functional.pad(logp, (0, 0, 1, 0))[None]
    return {
        f"policy:{i}" if i else "policy": SimpleNamespace(logp=padded[..., i])
        for i in range(logp.shape[1])
    }


def value(logp, advantage=-1.0, share=BOTH, **options):
    reading = Sandwich(draws=share.shape[1], **options)
    return reading.logp(of_draws(logp), two_tokens(advantage, share), "policy").sum()


def conditionals(seed: int):
    """log p of each of two tokens with the other known, [0], and with both hidden, [1]."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, generator=random, dtype=torch.float64).log()


def drawn(known, hidden):
    """What the four draws of `BOTH` say."""
    return torch.stack([known, known, hidden, hidden], 1)


def test_the_case_of_two_tokens_by_hand():
    """(checked) upper = sum over both of (1/b) log((a^b + a'^b) / 2)."""
    known, hidden = conditionals(0)
    for beta in (0.5, 1.0, 2.0):
        expected = sum(
            math.log((math.exp(beta * a) + math.exp(beta * b)) / 2) / beta
            for a, b in zip(known.tolist(), hidden.tolist(), strict=True)
        )
        found = value(drawn(known, hidden), beta=beta, omega=1.0)
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_small_beta_gives_the_lower_bound():
    """(checked)"""
    known, hidden = conditionals(1)
    lower = (known + hidden).sum() / 2
    assert float(value(drawn(known, hidden), omega=0.0)) == pytest.approx(float(lower), rel=1e-12)
    assert float(value(drawn(known, hidden), 1.0)) == pytest.approx(float(lower), rel=1e-12)
    for beta in (1e-3, 1e-5):
        gap = value(drawn(known, hidden), beta=beta, omega=1.0) - lower
        assert 0 < float(gap) < beta


def test_it_is_an_upper_bound_for_a_large_beta_and_none_for_a_small_one():
    """(checked) ELBO <= log p <= upper for beta >= 2, and at beta = 1 below log p half the time."""
    below = 0
    for seed in range(200):
        known, hidden = conditionals(seed)
        exact = ((hidden[0] + known[1]).exp() + (hidden[1] + known[0]).exp()).log() - math.log(2)
        draws = drawn(known, hidden)
        assert value(draws, omega=0.0) <= exact <= value(draws, beta=2.0, omega=1.0) + 1e-12
        below += bool(value(draws, beta=1.0, omega=1.0) < exact)
    assert 70 < below < 130


def test_the_gradient_of_the_mix_weighs_sure_canvases_more():
    """((1 - omega) w + omega rho) / draws, rho = w p^b / E[w p^b] (checked)."""
    known, hidden = conditionals(2)
    logp = drawn(known, hidden).requires_grad_()
    beta, omega = 1.5, 0.3
    (found,) = torch.autograd.grad(value(logp, beta=beta, omega=omega), logp)
    sure = BOTH * (beta * logp.detach()).exp()
    rho = sure / sure.mean(1, keepdim=True)
    assert torch.allclose(found, ((1 - omega) * BOTH + omega * rho) / 4, rtol=1e-12)


def test_a_gradient_of_a_bad_answer_stays_bounded_where_its_tokens_are_unlikely():
    """All of upper's gradient on the draws that find the token likely: no race to zero."""
    logp = torch.tensor([[-1.0, -300.0], [-300.0, -2.0]], dtype=torch.float64).requires_grad_()
    share = torch.ones(2, 2, dtype=torch.float64)
    (found,) = torch.autograd.grad(value(logp, share=share, omega=1.0), logp)
    expected = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-12)


def test_tokens_that_no_draw_asked_are_made_up_for_by_the_others():
    share = torch.tensor([[2.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    logp = torch.tensor([[-1.0, -2.0], [0.0, 0.0]], dtype=torch.float64).requires_grad_()
    found = value(logp, share=share, beta=1.0, omega=1.0)
    expected = 2 * math.log((2 * math.exp(-1) + 4 * math.exp(-2)) / 2)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    slope = torch.autograd.grad(found, logp)[0]
    assert slope.isfinite().all() and float(slope.sum()) == pytest.approx(2, rel=1e-12)


def noise(steps: int, **options):
    """A row of 7 written tokens of which 5 are own, in blocks of 2, and its canvases."""
    batch = rows_of([5], order=[1.0] * 5, canvas=[1.0] * 5)
    ids = torch.cat([batch.ids, torch.zeros(1, 2, dtype=torch.long)], 1)
    wide = torch.nn.functional.pad(batch.real, (0, 2), value=True)
    batch = type(batch)(
        ids, wide, torch.nn.functional.pad(batch.own, (0, 2)), batch.group, batch.rows, batch.task
    )
    written = torch.tensor([[0.0] + [1.0] * 7])
    batch = batch.put(order=written, canvas=written)
    models = SimpleNamespace(ledger=SimpleNamespace(optimizer_steps=steps))
    return Sandwich(draws=3, block=2, **options).noise(batch, models)


def test_canvases_hide_part_of_a_block_and_all_that_follows():
    """Blocks are those of the text: {1, 2}, {3, 4}, {5}, and places 6 and 7 are beyond its end."""
    seen = set()
    for steps in range(60):
        found = noise(steps, prompt=0.0)
        for draw in range(3):
            hidden, asked, share = (
                found[name][0, :, draw].tolist() for name in ("hidden", "asked", "share")
            )
            places = [i for i, each in enumerate(asked) if each]
            block = (places[0] - 1) // 2
            assert {(i - 1) // 2 for i in places} == {block}
            inside = [i for i in range(1, 6) if (i - 1) // 2 == block]
            later = [i for i in range(1, 8) if i > inside[-1]]
            assert [i for i, each in enumerate(hidden) if each] == sorted({*places, *later})
            weight = 3 * len(inside) / len(places)
            assert [share[i] for i in places] == [weight] * len(places)
            seen.add(tuple(places))
        # Three draws are spread over three blocks.
        assert bool((found["asked"][0].sum(0) > 0).all())
    assert seen == {(1,), (2,), (1, 2), (3,), (4,), (3, 4), (5,)}


def test_every_token_weighs_one_on_average():
    """Over 900 canvases, within 5 standard errors."""
    shares = torch.cat([noise(steps, prompt=0.0)["share"][0, 1:6] for steps in range(300)], 1)
    error = shares.std(1) / shares.shape[1] ** 0.5
    assert ((shares.mean(1) - 1).abs() < 5 * error + 1e-9).all()


def test_what_precedes_is_hidden_by_chance_and_never_asked():
    hidden = torch.stack([noise(steps, prompt=0.15)["hidden"][0, 0] for steps in range(250)])
    share = hidden.double().mean()
    assert abs(float(share) - 0.15) < 5 * (0.15 * 0.85 / hidden.numel()) ** 0.5
    for steps in range(30):
        found = noise(steps, prompt=0.5)
        assert not (found["asked"].bool() & ~found["hidden"].bool()).any()
        assert not found["asked"][0, 0].any() and not found["asked"][0, 6:].any()


def test_what_is_not_allowed_is_refused():
    for options, said in (
        ({"n": 1}, "n=1"), ({"beta": 0.0}, "beta=0.0"), ({"omega": 1.5}, "omega=1.5"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            spg(**options)
