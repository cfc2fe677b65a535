"""rlsd: which way comes from the reward, how far from the teacher."""

from __future__ import annotations

import pytest
import torch

from autodidact.grade import grade
from autodidact.methods.grpo import grpo
from autodidact.methods.rlsd import rlsd
from autodidact.models import Models
from toys import about, random_logits, rows_of, toy_task


def case():
    """Two answers, one right, with the advantages that `credit` would give them."""
    batch = rows_of([3, 3], advantage=[1.0, 1.0, 1.0, -1.0, -1.0, -1.0], told=[1.0, 1.0])
    student = random_logits(6, 3)
    teacher = student.detach() + random_logits(6, 3, seed=1, size=0.3)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    logp = scores["policy"].logp.detach()
    return batch.put(logp=logp, raw=logp), student, scores


def test_the_advantage_is_scaled_by_the_evidence_and_keeps_its_sign():
    batch, student, scores = case()
    share, width = 0.6, 0.3
    method = rlsd(share=share, width=width)
    gap = (scores["teacher"].logp - scores["policy"].logp).detach()[batch.own]
    sign = batch.take("advantage")[batch.own]
    size = (sign * gap).exp().clamp(1 - width, 1 + width)
    expected = sign * (1 - share + share * size)
    found = method.signal(scores, batch, None)[batch.own]
    assert torch.allclose(found, expected, rtol=1e-12)
    assert 0 < ((size > 1 - width) & (size < 1 + width)).sum() < 6
    values = method.loss(scores, batch)
    gradient = torch.autograd.grad(values.sum(), student)[0]
    plain = -(expected * scores["policy"].logp[batch.own]).sum()
    assert torch.allclose(gradient, torch.autograd.grad(plain, student)[0], rtol=1e-9, atol=1e-12)


def test_a_row_that_nothing_was_told_about_keeps_its_advantage():
    batch, _, scores = case()
    batch = batch.put(told=torch.tensor([1.0, 0.0]))
    found = rlsd(share=1.0).signal(scores, batch, None)
    assert torch.equal(found[1], batch.take("advantage")[1])
    assert not torch.equal(found[0], batch.take("advantage")[0])


@pytest.mark.parametrize("arguments", [{"share": 0.0}, {"context": "none"}])
def test_without_a_teacher_it_is_grpo(arguments, qwen):
    models, task, found = Models(qwen), toy_task(), []
    for method in (rlsd(4, 5, **arguments), grpo(4, 5)):
        batch = method.rollout(task.train, models, task, 0)
        batch = method.credit(grade(batch, models), models)
        views = method.views(batch, models)
        scores = {name: models.score(view, batch) for name, view in views.items()}
        found.append(method.loss(scores, batch).detach() * method.weigh(batch))
    assert torch.allclose(*found, rtol=1e-9, atol=1e-15) and found[0].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"n": 1}, "at least 2"), ({"share": 2.0}, r"share=2\.0"), ({"width": 1.0}, r"width=1\.0")],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        rlsd(**arguments)
