"""What a teacher knows that its student does not, and what of it the student took over.

Shapes: B problems, T columns. With y the solution of a problem (its answer where there is none), x
what the student reads and c what the teacher is told besides, per token of y, in nats:

privilege_gap = mean_t log q(y_t|x, c, y_<t) - log p(y_t|x, y_<t)    what being told is worth
leakage       = mean_t log p(y_t|x, y_<t)                           of a text the student never saw

A student that repeats the references of its training problems shows a leakage that rises with
training, and more on those problems than on others.

Source: the open questions on privileged information of OPSD, arXiv 2601.18734; that a term of the
loss leaks the reference whatever the reader does is shown in RLSD, arXiv 2604.03128.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autodidact.batch import Batch, batch_of
from autodidact.method import Method
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.teachers import Teacher

PROBLEMS = 16
"""Problems that are read, two readings of each."""


@torch.no_grad()
def privilege(
    method: Method, models: Models, task: Task, problems: Sequence[Problem]
) -> dict[str, float]:
    """`privilege_gap` and `leakage`, over the first problems that have a reference.

    Nothing where the method has no view "teacher" or trains a masked model, or no problem has what
    it needs. Nothing is
    charged to the ledger. Problems whose reference does not fit a reader's context are left out.
    A teacher who is told of completions (feedback, a sibling) is told the solution here.
    """
    if method.masked:
        return {}
    told = [p for p in problems if _text(p) and all(getattr(p, field) for field in method.needs)]
    with models.uncharged():
        batch = _references(method, models, task, told[:PROBLEMS])
        if batch is None:
            return {}
        views = method.views(batch, models)
        scores = models.scores(views, batch)
    judge = Teacher.parse(str((method.arguments or {}).get("teacher", "policy")))
    student, teacher = scores["policy"].logp, judge.scores(scores).logp
    return {
        "privilege_gap": float((teacher - student)[batch.own].mean()),
        "leakage": float(student[batch.own].mean()),
    }


def _text(problem: Problem) -> str | None:
    return problem.solution or problem.answer


def _references(
    method: Method, models: Models, task: Task, problems: Sequence[Problem]
) -> Batch | None:
    """The references as if the student had written them; `None` where none can be read."""
    fitting = [p for p in problems if _fits(method, models, _written(models, task, [p]))]
    return _written(models, task, fitting) if fitting else None


def _written(models: Models, task: Task, problems: Sequence[Problem]) -> Batch:
    policy = models.policy
    prompts = [policy.render(task.prompt(problem)) for problem in problems]
    texts = [policy.encode(_text(problem) or "") for problem in problems]
    return batch_of(problems, prompts, texts, task).to(policy.device)


def _fits(method: Method, models: Models, batch: Batch) -> bool:
    """Whether there is a teacher who can read the reference, and a student who can."""
    try:
        views = method.views(batch, models)
    except ValueError:  # its prompt and the reference are too long for a teacher
        return False
    return "teacher" in views and all(
        int(view.real.sum(1).max()) <= models[view.role].context for view in views.values()
    )
