"""entropy_aware_opd: forward divergence is added at the teacher's forks alone."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.methods.entropy_aware_opd import entropy_aware_opd
from autodidact.methods.opsd import opsd
from toys import about, random_logits, rows_of


@pytest.fixture
def case():
    batch = rows_of([3, 2])
    student, teacher = random_logits(5, 3), random_logits(5, 3, seed=1, size=2.0)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    return batch, student, teacher, scores


def test_the_forward_divergence_counts_where_the_teacher_is_unsure(case):
    batch, student, teacher, scores = case
    p, q = student.log_softmax(-1), teacher.log_softmax(-1).detach()
    entropy = -(q.exp() * q).sum(-1)
    threshold = float(entropy.median())
    values = entropy_aware_opd(unsure=threshold, forward=0.7).loss(scores, batch)[batch.own]
    fork = (entropy > threshold).double()
    assert fork.sum() == 2
    expected = (p.exp() * (p - q)).sum(-1) + 0.7 * fork * (q.exp() * (q - p)).sum(-1)
    assert torch.allclose(values, expected, rtol=1e-9)
    found, other = (torch.autograd.grad(each.sum(), student)[0] for each in (values, expected))
    assert torch.allclose(found, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("support", ["full", "union"])
def test_its_ends_are_reverse_alone_and_both_everywhere(case, support):
    batch, _, _, scores = case
    some = {"support": support, "k": 1}
    reverse, forward = (
        opsd(divergence=kind, context="none", **some).loss(scores, batch)
        for kind in ("reverse", "forward")
    )
    never = entropy_aware_opd(unsure=math.inf, **some).loss(scores, batch)
    always = entropy_aware_opd(unsure=-1.0, **some).loss(scores, batch)
    assert torch.equal(never, reverse)
    assert torch.allclose(always, reverse + forward, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"support": "sampled"}, "support 'full'"),
        ({"support": "teacher", "form": "raw"}, "support 'full'"),
        ({"forward": -1.0}, "at least 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        entropy_aware_opd(**arguments)
