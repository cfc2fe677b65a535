"""tw_grpo: weights of places from how a group's laws differ, against GRPO and by hand."""

from __future__ import annotations

import pytest
import torch

from autodidact.groupwise import disagreement
from autodidact.methods.grpo import grpo
from autodidact.methods.tw_grpo import tw_grpo
from toys import about, random_logits, rows_of

LENGTHS, REWARDS = [4, 2, 3], [1.0, 0.0, 0.25]


class Fixed:
    """Models that say what they are told."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, view, batch):
        return self.scores


def drawn(logits=None):
    batch = rows_of(LENGTHS, REWARDS)
    models = Fixed(about(batch, random_logits(9, 3).detach() if logits is None else logits))
    return batch.put(raw=torch.where(batch.own, models.scores.logp - 0.1, 0.0)), models


@pytest.mark.parametrize("apart", ["divergence", "released"])
def test_weights_run_from_one_to_alpha_with_the_disagreement(apart):
    batch, models = drawn()
    found = tw_grpo(n=3, apart=apart).credit(batch, models)
    gap = disagreement(models.scores, batch.group, apart)[batch.own]
    focus = found.take("focus")[batch.own]
    scaled = (gap - gap.min()) / (gap.max() - gap.min())
    assert torch.allclose(focus, 1 + 0.7 * scaled, rtol=1e-12)
    assert float(focus.min()) == 1 and float(focus.max()) == pytest.approx(1.7)
    plain = grpo(n=3).credit(batch, None).take("advantage")
    assert torch.allclose(found.take("advantage")[batch.own], plain[batch.own] * focus, rtol=1e-12)


def same_as_grpo(method, batch, models):
    other = grpo(n=3, clip_high=0.28, normalise="token")
    found, wanted = method.credit(batch, models), other.credit(batch, None)
    assert torch.equal(found.take("advantage"), wanted.take("advantage"))
    losses = [m.loss({"policy": models.scores}, b) for m, b in ((method, found), (other, wanted))]
    assert torch.equal(*losses) and torch.equal(method.weigh(found), other.weigh(wanted))
    assert losses[0].abs().max() > 0.1


def test_with_alpha_one_it_is_grpo_with_a_mean_over_tokens():
    same_as_grpo(tw_grpo(n=3, alpha=1.0), *drawn())


@pytest.mark.parametrize("apart", ["divergence", "released"])
def test_rows_that_are_alike_make_it_grpo(apart):
    """No range of disagreement: the weights are 1, and rounding is no range."""
    batch = rows_of([3, 3, 3], REWARDS)
    logits = random_logits(3, 3).detach().repeat(3, 1).float()
    models = Fixed(about(batch, logits))
    batch = batch.put(raw=torch.where(batch.own, models.scores.logp - 0.1, 0.0))
    same_as_grpo(tw_grpo(n=3, apart=apart), batch, models)


def test_weights_carry_no_gradient():
    batch, _ = drawn()
    logits = random_logits(9, 3)
    found = tw_grpo(n=3).credit(batch, Fixed(about(batch, logits)))
    assert not found.take("advantage").requires_grad


def test_the_weight_multiplies_the_clipped_term():
    """sum_t w_t min(rho A, clip(rho) A) / sum T, with the ratio beyond its bounds for some."""
    batch, models = drawn()
    shift = random_logits(9, seed=4).detach()
    batch = batch.put(raw=torch.zeros_like(batch.take("raw")).masked_scatter(
        batch.own, models.scores.logp[batch.own] + shift))  # fmt: skip
    method = tw_grpo(n=3)
    found = method.credit(batch, models)
    loss = (method.loss({"policy": models.scores}, found) * method.weigh(found)).sum()
    ratio = (-shift).exp()
    a = grpo(n=3).credit(batch, None).take("advantage")[batch.own]
    terms = torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a)
    wanted = -(found.take("focus")[batch.own] * terms).sum() / 9
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
    assert (ratio > 1.28).any() and (ratio < 0.8).any()


@pytest.mark.parametrize("wrong", [{"n": 1}, {"alpha": 0.9}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        tw_grpo(**wrong)
