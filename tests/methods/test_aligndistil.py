"""aligndistil: theorem 1 on tokens, and how far beyond the DPO model each token leads."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.aligndistil import aligndistil
from toys import about, random_logits, rows_of


def case(seeds=(0, 1, 2)):
    batch = rows_of([3, 2])
    laws = [random_logits(5, 3, seed=seed) for seed in seeds]
    names = ("policy", "teacher", "reverse")
    return batch, laws, {n: about(batch, law) for n, law in zip(names, laws, strict=True)}


def gradients(values, batch, logits):
    return torch.autograd.grad(values[batch.own].sum(), logits)[0]


def test_its_gradient_is_that_of_reward_and_leash():
    """Theorem 1: beta/w KL(p||softmax z*) against -beta/w (E_p[(1+w) log dpo/rev] - KL(p||rev))."""
    batch, (student, dpo, rev), scores = case()
    beta, reach, least = 0.1, 3.0, 0.05
    method = aligndistil(beta=beta, reach=reach, least=least)
    found = gradients(method.loss(scores, batch), batch, student)
    p = student.log_softmax(-1)
    d, r = (x.log_softmax(-1).detach() for x in (dpo, rev))
    w = reach * (d.exp() - r.exp()).abs().sum(-1) + least
    reward = (p.exp() * (1 + w)[:, None] * (d - r)).sum(-1)
    leash = (p.exp() * (p - r)).sum(-1)
    expected = torch.autograd.grad((-beta / w * (reward - leash)).sum(), student)[0]
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert w.max() / w.min() > 1.5


def test_a_short_reach_is_the_dpo_model():
    batch, (student, dpo, _), scores = case()
    tiny = 1e-9
    values = aligndistil(beta=tiny, reach=tiny, least=tiny).loss(scores, batch)[batch.own]
    p, d = student.log_softmax(-1), dpo.log_softmax(-1)
    kl = (p.exp() * (p - d)).sum(-1)
    distance = (dpo.softmax(-1) - scores["reverse"].hidden.softmax(-1)).abs().sum(-1)
    assert torch.allclose(values * (distance + 1), kl, rtol=1e-6)


def test_equal_teachers_are_distilled_with_a_large_weight():
    batch, (student, dpo, _), scores = case((0, 1, 1))
    values = aligndistil().loss(scores, batch)[batch.own]
    p, d = student.log_softmax(-1), dpo.log_softmax(-1)
    assert torch.allclose(values, 100 * (p.exp() * (p - d)).sum(-1), rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"least": 0.0}, r"least=0\.0"),
        ({"on_policy": 0.5, "correct": "mask"}, "on_policy=1"),
        ({"on_policy": -1.0}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        aligndistil(**arguments)
