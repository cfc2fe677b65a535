"""sdft: forward KL to a moving average that was shown a demonstration."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.sdft import sdft
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import about, random_logits, rows_of, toy_task


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_the_gradient_over_the_whole_vocabulary(divergence):
    """In the logits: p - q for the forward divergence, p (log p/q - KL) for the reverse."""
    batch = rows_of([3, 2])
    student, teacher = random_logits(5, 3, size=2.0), random_logits(5, 3, seed=1, size=2.0)
    method = sdft(divergence=divergence)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    found = torch.autograd.grad(loss, student)[0]
    p, q = student.softmax(-1).detach(), teacher.softmax(-1).detach()
    gap = (p / q).log()
    reverse = p * (gap - (p * gap).sum(-1, keepdim=True))
    expected = (p - q if divergence == "forward" else reverse) / 5
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_teacher_is_an_average_who_reads_the_demonstration(qwen):
    models, task = Models(qwen), toy_task(3)
    method = sdft(length=4)
    batch = method.credit(method.rollout(task.train, models, task, 0), models)
    view = method.views(batch, models)["teacher"]
    assert view.role == "ema:0.98" and not view.grad
    for row, problem in enumerate(batch.rows):
        text = qwen.decode(view.ids[row][view.real[row]].tolist())
        assert f"{problem.question}\n\nThis is how one may answer:\n{problem.solution}" in text


def test_the_teacher_follows_the_student_by_its_share(qwen):
    models = Models(qwen)
    training = Training(
        sdft(length=4, teacher="ema:0.75"), models, toy_task(), Run(steps=1, rows=4)
    )
    before = {n: w.detach().clone() for n, w in models.policy.model.named_parameters()}
    training.advance()
    after = dict(models.policy.model.named_parameters())
    for name, weight in models["ema:0.75"].model.named_parameters():
        expected = 0.75 * before[name] + 0.25 * after[name]
        assert torch.allclose(weight, expected, rtol=1e-9, atol=1e-12)


def test_a_live_teacher_who_is_told_nothing_teaches_nothing(qwen):
    method = sdft(length=4, teacher="policy", context="none")
    _, line = Training(method, Models(qwen), toy_task(), Run(steps=1, rows=4)).advance()
    assert line["loss"] == pytest.approx(0, abs=1e-14)
