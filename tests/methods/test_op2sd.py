"""op2sd: opsd with the solution of another problem."""

from __future__ import annotations

import torch

from autodidact.methods.op2sd import op2sd
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from toys import random_qwen, toy_task


def test_it_is_opsd_with_another_context_and_a_clip(tokenizer):
    task, found = toy_task(6), []
    for method in (op2sd(length=4), opsd(length=4, context="other", clip=0.05)):
        models = Models(random_qwen(tokenizer))
        batch = method.credit(method.rollout(task.train, models, task, 0), models)
        scores = models.scores(method.views(batch, models), batch)
        values = method.loss(scores, batch)
        (values * method.weigh(batch)).sum().backward()
        gradients = [w.grad for w in models.policy.model.parameters() if w.grad is not None]
        found.append([values.detach(), *gradients])
    assert len(found[0]) > 5 and all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert found[0][0].abs().max() > 1e-4


def test_the_teacher_never_reads_the_solution_of_the_problem(qwen):
    models, task, method = Models(qwen), toy_task(6), op2sd(length=4)
    batch = method.credit(method.rollout(task.train, models, task, 0), models)
    view = method.views(batch, models)["teacher"]
    solutions = {problem.solution for problem in task.train}
    for row, problem in enumerate(batch.rows):
        text = qwen.decode(view.ids[row][view.real[row] & ~view_own(view, row)].tolist())
        assert problem.solution not in text and any(f"\n{s}\n" in text for s in solutions)


def view_own(view, row) -> torch.Tensor:
    """Which tokens of a row of a view are the completion."""
    width = view.ids.shape[1]
    asked = view.at[row][view.asked[row]] - row * width + 1
    return torch.zeros(width, dtype=torch.bool).index_fill(0, asked, True)
