"""exopd: distillation to a teacher beyond the teacher."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.exopd import exopd
from autodidact.methods.opsd import opsd
from toys import about, random_logits, rows_of

EXACT = {"support": "full", "estimator": "direct"}


def every_word(student, teacher, reference):
    """One row for each of three words, with the scores of three laws, the same in every row."""
    batch = rows_of([1, 1, 1])
    laws = {"policy": student, "teacher": teacher, "reference": reference}
    return batch, {name: about(batch, law.expand(3, 3)) for name, law in laws.items()}


@pytest.mark.parametrize("extrapolate", [0.5, 1.25, 1.5])
def test_on_average_it_goes_to_the_extrapolated_teacher(extrapolate):
    """The advantage of the paper, whose log Z has no mean effect, and the exact divergence."""
    student, teacher, reference = (random_logits(3, seed=seed) for seed in range(3))
    batch, scores = every_word(student, teacher, reference)
    s, q, r = (x.log_softmax(-1) for x in (student, teacher, reference))
    values = exopd(extrapolate=extrapolate).loss(scores, batch)[batch.own]
    chance = s.detach().exp()[batch.ids[batch.own]]
    found = torch.autograd.grad((chance * values).sum(), student)[0]

    advantage = -((s - q) + (extrapolate - 1) * (r - q)).detach()
    paper = torch.autograd.grad(-(s.detach().exp() * advantage * s).sum(), student)[0]
    s = student.log_softmax(-1)
    target = (extrapolate * q + (1 - extrapolate) * r).log_softmax(-1).detach()
    exact = torch.autograd.grad((s.exp() * (s - target)).sum(), student)[0]
    assert torch.allclose(found, paper, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-12)

    full = exopd(extrapolate=extrapolate, **EXACT).loss(scores, batch)[batch.own]
    assert torch.allclose(torch.autograd.grad(full.mean(), student)[0], exact, rtol=1e-9)


@pytest.mark.parametrize(("extrapolate", "target"), [(1.0, "teacher"), (0.0, "reference")])
def test_its_ends_are_plain_distillation(extrapolate, target):
    student, teacher, reference = (random_logits(3, seed=seed) for seed in range(3))
    batch, scores = every_word(student, teacher, reference)
    values = exopd(extrapolate=extrapolate, **EXACT).loss(scores, batch)
    plain = opsd(divergence="reverse", context="none")
    expected = plain.loss({"policy": scores["policy"], "teacher": scores[target]}, batch)
    assert torch.allclose(values, expected, rtol=1e-12, atol=1e-15)


def test_equal_teacher_and_reference_are_the_teacher_at_any_length():
    student, teacher, _ = (random_logits(3, seed=seed) for seed in range(3))
    batch, scores = every_word(student, teacher, teacher)
    near, far = (exopd(extrapolate=size, **EXACT).loss(scores, batch) for size in (1.0, 3.0))
    assert torch.allclose(near, far, rtol=1e-12)


def test_a_sampled_token_is_not_differentiated_directly():
    with pytest.raises(ValueError, match="expected gradient is zero"):
        exopd(estimator="direct")
