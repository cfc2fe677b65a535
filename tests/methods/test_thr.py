"""thr: which tokens count by their influence on the right answers, and by how much."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.groupwise import influence
from autodidact.methods.grpo import grpo
from autodidact.methods.thr import thr
from toys import about, random_logits, rows_of


class Fixed:
    """Models that say what they are told."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, view, batch):
        return self.scores


def judged(lengths, right, seed: int = 0):
    """A group of rows with hidden states over three words, right ones earning 1."""
    batch = rows_of(lengths, right)
    batch = batch.put(correct=torch.as_tensor(right, dtype=torch.float64))
    return batch, Fixed(about(batch, random_logits(sum(lengths), 3, seed=seed).detach()))


def expected(batch, scores):
    """(THR, tau) by the double sum: +-sum_i (1/T_i) sum_k <g_k, g_t> <h_k, h_t>."""
    rows = batch.own.nonzero()[:, 0]
    g = torch.nn.functional.one_hot(scores.targets, 3) - scores.hidden.softmax(-1)
    pairs = (g @ g.T) * (scores.hidden @ scores.hidden.T)
    right, length = batch.take("correct")[rows], batch.own.sum(1)[rows]
    moved = pairs @ (right / length)
    means = [float(moved[rows == i].mean()) for i in range(len(batch)) if right[rows == i][0]]
    return (2 * right - 1) * moved, min(means)


def test_signs_threshold_and_advantages_by_hand():
    """A_t = 1[|THR| > tau] (1 + sign(THR) p) A, tau the least mean over the right rows."""
    batch, models = judged([3, 2, 4, 1], [1.0, 0.0, 1.0, 0.0])
    reward, tau = expected(batch, models.scores)
    plain = grpo(n=4).credit(batch, None).take("advantage")[batch.own]
    for p in (0.1, -0.3, 0.0):
        found = thr(n=4, p=p).credit(batch, models)
        assert torch.allclose(found.take("thr")[batch.own], reward, rtol=1e-9)
        wanted = (reward.abs() > tau) * (1 + reward.sign() * p) * plain
        assert torch.allclose(found.take("advantage")[batch.own], wanted, rtol=1e-9, atol=1e-12)
    kept = (reward.abs() > tau).sum()
    assert 0 < kept < len(reward) and len(set(reward.sign().tolist())) == 2


def test_without_threshold_and_tilt_it_is_grpo():
    batch, models = judged([3, 2, 4, 1], [1.0, 0.0, 1.0, 0.0])
    batch = batch.put(raw=torch.where(batch.own, models.scores.logp - 0.1, 0.0))
    one, two = thr(n=4, p=0.0, tau=-1.0, kl=0.0, waves=1), grpo(n=4)
    found, wanted = one.credit(batch, models), two.credit(batch, None)
    assert torch.equal(found.take("advantage"), wanted.take("advantage"))
    values = [m.loss({"policy": models.scores}, b) for m, b in ((one, found), (two, wanted))]
    assert torch.equal(*values) and torch.equal(one.weigh(found), two.weigh(wanted))


def test_groups_that_are_not_mixed_have_no_influence():
    """All right or all wrong, though rewards differ: nothing is learned unless tau is below 0."""
    for right in ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]):
        batch, models = judged([2, 1, 3], right)
        batch = batch.put(reward=torch.tensor([1.0, 0.5, 0.0]).double())
        found = thr(n=3).credit(batch, models)
        assert not found.take("advantage").any() and not found.take("thr").any()
        kept = thr(n=3, tau=-1.0).credit(batch, models).take("advantage")
        assert torch.equal(kept, grpo(n=3).credit(batch, None).take("advantage"))


def test_a_right_answer_of_one_token_is_not_above_its_own_mean():
    batch, models = judged([1, 2], [1.0, 0.0])
    assert float(thr(n=2).credit(batch, models).take("advantage")[0].abs().sum()) == 0


def test_each_group_has_a_threshold_of_its_own():
    batch, models = judged([3, 2, 4, 1], [1.0, 0.0, 1.0, 0.0])
    split = replace(batch, group=torch.tensor([5, 5, 2, 2]))
    found = thr(n=2).credit(split, models).take("advantage")
    for rows, tokens in (([0, 1], slice(0, 5)), ([2, 3], slice(5, 10))):
        part = batch.select(rows)
        alone = Fixed(about(part, models.scores.hidden[tokens]))
        width = part.ids.shape[1]
        wanted = thr(n=2).credit(part, alone).take("advantage")
        assert torch.allclose(found[rows][:, :width], wanted, rtol=1e-9)


def test_a_row_that_cannot_be_judged_moves_nobody():
    batch, models = judged([3, 2, 1], [1.0, 0.0, 1.0])
    nobody = batch.put(correct=torch.tensor([1.0, 0.0, torch.nan]).double())
    found = thr(n=3).credit(nobody, models)
    step = batch.own.double() / 3 * torch.tensor([[1.0], [0.0], [0.0]])
    moved = influence(models.scores, step, batch.group)
    assert torch.allclose(found.take("thr")[:2].abs(), moved[:2].abs(), rtol=1e-12)
    assert not found.take("thr")[2].any()
    with pytest.raises(ValueError, match="judged right or wrong"):
        thr(n=3).credit(batch.put(correct=torch.full((3,), torch.nan)), models)


@pytest.mark.parametrize("wrong", [{"n": 1}, {"p": 1.5}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 2"):
        thr(**wrong)
