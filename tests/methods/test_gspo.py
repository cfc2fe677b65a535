"""gspo: one ratio for a whole answer, its clip, and the same gradient token by token."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.methods.grpo import grpo
from autodidact.methods.gspo import gspo
from toys import about, random_logits, rows_of

LENGTHS, REWARDS = [4, 1, 3], [1.0, 0.0, 0.25]


def loss_of(method, logits, old):
    batch = rows_of(LENGTHS, REWARDS)
    batch = method.credit(batch.put(raw=about(batch, old).logp.detach()), None)
    values = method.loss({"policy": about(batch, logits)}, batch)
    return batch, values, (values * method.weigh(batch)).sum()


def test_every_token_of_a_row_has_the_ratio_of_the_row():
    logits, old = random_logits(8, 3), random_logits(8, 3, seed=1)
    batch, values, _ = loss_of(gspo(n=3, clip=10.0, clip_high=10.0), logits, old)
    gap = about(batch, logits).logp - about(batch, old).logp
    for row, length in enumerate(LENGTHS):
        own = batch.own[row]
        ratio = math.exp(float(gap[row][own].sum().detach()) / length)
        advantage = float(batch.take("advantage")[row][own][0])
        assert values[row][own].tolist() == pytest.approx([-ratio * advantage] * length, rel=1e-12)


def test_the_token_form_has_the_same_loss_and_gradient():
    """(checked) For an advantage that is constant along a row, within the clip and beyond it."""
    logits, old = random_logits(8, 3), random_logits(8, 3, seed=1)
    for clip in (3e-4, 0.3, 10.0):
        _, _, one = loss_of(gspo(n=3, clip=clip, clip_high=clip), logits, old)
        _, _, each = loss_of(
            gspo(n=3, clip=clip, clip_high=clip, level="sequence_token"), logits, old
        )
        assert float(one.detach()) == pytest.approx(float(each.detach()), rel=1e-12)
        a, b = (torch.autograd.grad(x, logits)[0] for x in (one, each))
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14) and a.abs().max() > 0


def test_its_clips_are_at_work_where_those_of_tokens_are_not():
    """At a ratio of 1.001 of every token a good answer learns nothing more, and by 0.2 it would."""
    logits, batch = random_logits(8, 3), rows_of(LENGTHS, REWARDS)
    old = about(batch, logits).logp.detach() - math.log(1.001) * batch.own.double()
    for method, still in ((gspo(n=3), False), (gspo(n=3, clip=0.2, clip_high=0.2), True)):
        credited = method.credit(batch.put(raw=old), None)
        loss = (method.loss({"policy": about(batch, logits)}, credited) * method.weigh(batch)).sum()
        good = torch.autograd.grad(loss, logits)[0][:4]
        assert bool(good.abs().max() > 0) is still


def test_it_is_grpo_at_ratio_one_and_at_the_level_of_tokens():
    logits, old = random_logits(8, 3), random_logits(8, 3, seed=1)
    for level, start, clip in (("sequence", logits, 0.2), ("token", old, 0.3)):
        _, _, ours = loss_of(gspo(n=3, clip=clip, clip_high=clip, level=level), logits, start)
        _, _, plain = loss_of(grpo(n=3, clip=clip), logits, start)
        a, b = (torch.autograd.grad(x, logits)[0] for x in (ours, plain))
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


def test_an_unknown_level_and_a_group_of_one_are_refused():
    with pytest.raises(ValueError, match="sequence_token"):
        gspo(level="sequence_tokens")
    with pytest.raises(ValueError, match="n=1"):
        gspo(n=1)
