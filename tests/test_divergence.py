"""Divergences on enumerated laws over seven words: values, gradients in the logits, limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.divergence import Divergence
from toys import laws, random_logits

N, V = 5, 7
KINDS = [
    Divergence("forward"),
    Divergence("reverse"),
    Divergence("tv"),
    Divergence("jsd", 0.5),
    Divergence("jsd", 0.1),
    Divergence("jsd", 0.9, rescale=True),
]


@pytest.fixture
def pair():
    return random_logits(N, V, size=1.5), random_logits(N, V, seed=1, size=1.5)


def value(kind: Divergence, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return kind.measure(student.log_softmax(-1), teacher.log_softmax(-1))[0]


def by_hand(kind: Divergence, p: list[float], q: list[float]) -> float:
    if kind.kind == "tv":
        return 1 - sum(map(min, p, q))
    if kind.kind in ("forward", "reverse"):
        a, b = (q, p) if kind.kind == "forward" else (p, q)
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))
    b = kind.beta
    m = [b * y + (1 - b) * x for x, y in zip(p, q, strict=True)]
    found = b * sum(y * math.log(y / z) for y, z in zip(q, m, strict=True))
    found += (1 - b) * sum(x * math.log(x / z) for x, z in zip(p, m, strict=True))
    return found / (b * (1 - b)) if kind.rescale else found


def slope(kind: Divergence, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The gradient in the student's logits, in closed form."""

    def centred(x):  # p (x - E_p x): what a function of p with derivative x gives in the logits
        return p * (x - (p * x).sum(-1, keepdim=True))

    if kind.kind == "forward":
        return p - q
    if kind.kind == "reverse":
        return centred((p / q).log())
    if kind.kind == "tv":
        return centred((p - q).sign() / 2)
    b = kind.beta
    found = (1 - b) * centred((p / (b * q + (1 - b) * p)).log())
    return found / (b * (1 - b)) if kind.rescale else found


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_values_are_those_of_the_definition(kind, pair):
    p, q = (x.softmax(-1).tolist() for x in pair)
    expected = [by_hand(kind, a, b) for a, b in zip(p, q, strict=True)]
    assert value(kind, *pair).tolist() == pytest.approx(expected, rel=1e-12)
    assert min(expected) > 0.01


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_in_the_logits_have_their_closed_form(kind, pair):
    student, teacher = pair
    found = torch.autograd.grad(value(kind, student, teacher).sum(), student)[0]
    p, q = student.softmax(-1).detach(), teacher.softmax(-1).detach()
    assert torch.allclose(found, slope(kind, p, q), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equal_laws_have_no_divergence_and_no_gradient(kind, pair):
    student = pair[0]
    found = value(kind, student, student.detach())
    assert float(found.detach().abs().max()) < 1e-15
    assert float(torch.autograd.grad(found.sum(), student)[0].abs().max()) < 1e-15


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_shift_of_all_logits_changes_nothing(kind, pair):
    student, teacher = pair
    assert torch.allclose(value(kind, student + 3, teacher - 5), value(kind, student, teacher))


@pytest.mark.parametrize(("beta", "limit"), [(1e-8, "forward"), (1 - 1e-8, "reverse")])
def test_the_rescaled_jsd_tends_to_the_kl_forms(pair, beta, limit):
    found = value(Divergence("jsd", beta, rescale=True), *pair)
    assert torch.allclose(found, value(Divergence(limit), *pair), rtol=1e-6)


def test_the_rescaled_jsd_has_the_curvature_of_the_kl_forms_for_every_beta(pair):
    """Near p = q all of them are sum_v q e^2 / 2 for p = q (1 + e)."""
    near = (
        pair[0].detach()
        + 1e-3 * torch.randn(N, V, generator=torch.Generator().manual_seed(0)).double()
    )
    p, q = near.softmax(-1), pair[0].softmax(-1).detach()
    expected = ((p - q) ** 2 / q).sum(-1) / 2
    kinds = [Divergence(), Divergence("reverse")]
    kinds += [Divergence("jsd", beta, rescale=True) for beta in (0.01, 0.3, 0.5, 0.99)]
    for kind in kinds:
        assert torch.allclose(value(kind, near, pair[0].detach()), expected, rtol=5e-3)


def test_the_jsd_is_symmetric_at_one_half_and_bounded_by_its_entropy():
    far, away = torch.tensor([[50.0, 0.0, 0.0]]).double(), torch.tensor([[0.0, 50.0, 0.0]]).double()
    for beta in (0.1, 0.5, 0.8):
        bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        assert float(value(Divergence("jsd", beta), far, away)) == pytest.approx(bound, rel=1e-9)
    one, two = random_logits(N, V).detach(), random_logits(N, V, seed=1).detach()
    half = Divergence("jsd", 0.5)
    assert torch.allclose(value(half, one, two), value(half, two, one), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_laws_that_share_nothing_stay_finite_in_float32(kind):
    student = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    found = value(kind, student, torch.tensor([[-1e4, 0.0, 1e4]]))
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("clip", [0.1, 0.05, 1e-3])
def test_the_clip_cuts_summands_from_above_only(pair, clip):
    p, q = (x.softmax(-1).detach() for x in pair)
    terms = q * (q / p).log()
    assert (terms > clip).any() and (terms < -clip).any()
    found = value(Divergence(clip=clip), *pair).detach()
    expected = torch.where(terms > clip, clip, terms).sum(-1)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-15)


def test_a_tiny_clip_pushes_away_from_the_teacher(pair):
    """As the clip goes to 0 every word that the teacher prefers is pushed down."""
    student, teacher = pair
    clipped = Divergence(clip=1e-9)
    found = value(clipped, student, teacher)
    assert (found < 0).all()
    gradient = torch.autograd.grad(found.sum(), student)[0]
    p, q = student.softmax(-1).detach(), teacher.softmax(-1).detach()
    wanted = q > p
    assert (gradient[wanted] > 0).all() and wanted.any()
    below = (~wanted).double()
    expected = (q * below).sum(-1, keepdim=True) * p - q * below
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_scores_give_the_same_and_leave_notes(pair):
    student, teacher = pair
    targets = [0, 1, 2, 3, 4]
    for kind in (*KINDS, Divergence(clip=0.05)):
        s, t = laws(student, targets, temperature=1.3), laws(teacher, targets, temperature=0.7)
        found = s.divergence(t, kind)
        assert torch.allclose(found[0], value(kind, student / 1.3, teacher / 0.7), rtol=1e-12)
        p, q = (student / 1.3).softmax(-1).detach(), (teacher / 0.7).softmax(-1).detach()
        notes = {name: note[0] for name, note in s.notes.items()}
        assert not any(note.requires_grad for note in notes.values())
        assert torch.allclose(notes["tv"], 1 - torch.minimum(p, q).sum(-1), rtol=1e-12)
        assert torch.allclose(notes["entropy"], -(p * p.log()).sum(-1), rtol=1e-12)
        assert torch.allclose(notes["teacher_entropy"], -(q * q.log()).sum(-1), rtol=1e-12)
        assert torch.allclose(notes["logp"], p[range(N), targets].log(), rtol=1e-12)
        assert torch.allclose(notes["teacher_logp"], q[range(N), targets].log(), rtol=1e-12)
        assert torch.equal(notes["negative"], (found[0] < 0).double())


def test_the_teacher_gets_no_gradient(pair):
    student, teacher = pair
    laws(student, [0] * N).divergence(
        laws(teacher, [0] * N), Divergence("reverse")
    ).sum().backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


def test_both_sides_need_one_vocabulary(pair):
    student, _ = pair
    with pytest.raises(ValueError, match="7 words, the teacher's 6"):
        laws(student, [0] * N).divergence(laws(random_logits(N, 6), [0] * N), Divergence())


@pytest.mark.parametrize("beta", [0.0, 1.0, -1.0])
def test_the_ends_of_the_jsd_are_refused(beta):
    with pytest.raises(ValueError, match=f"beta={beta}"):
        Divergence("jsd", beta)
    assert replace(Divergence("jsd"), beta=0.3).beta == 0.3
