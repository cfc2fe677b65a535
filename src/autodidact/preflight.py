"""Before work starts: does the data have what the method needs, does everything fit, and what
does one example look like?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autodidact.batch import Batch, batch_of
from autodidact.method import Method
from autodidact.models import Models
from autodidact.problem import Problem, Task

CHUNK = 64


@dataclass(frozen=True)
class Example:
    """What one role reads for one problem: pieces of text, each trained on or not."""

    role: str
    pieces: tuple[tuple[str, bool], ...]


def check(method: Method, models: Models, task: Task) -> list[Example]:
    """Refuse data or prompts that the method cannot work with; else show one example.

    Raises:
        ValueError: a problem lacks a field that the method needs, or does not fit the context of
            a model that reads it. Nothing is ever cut silently.
    """
    if not task.train:
        raise ValueError(f"the task {task.name!r} has no problem to train on")
    check_needs(method, task)
    first: Batch | None = None
    for start in range(0, len(task.train), CHUNK):
        batch = stand_in(method, models, task, task.train[start : start + CHUNK])
        first = first or batch.select([0])
        views = method.views(batch, models)
        for view in views.values():
            lengths = view.real.sum(1)
            context = models[view.role].context
            if int(lengths.max()) > context:
                row = int(lengths.argmax())
                raise ValueError(
                    f"the problem {batch.rows[row].question[:60]!r} needs {int(lengths[row])} "
                    f"tokens (prompt and at most {batch.own[row].sum()} of completion), more than "
                    f"the context of {context} tokens"
                )
    assert first is not None
    return example(method, models, first)


def check_needs(method: Method, task: Task) -> None:
    """Refuse a task whose problems lack a field that the method needs."""
    for field in method.needs:
        lacking = [p for p in task.train if not getattr(p, field)]
        if lacking:
            have = len(task.train) - len(lacking)
            raise ValueError(
                f"method {method.name!r} needs the {field} of every problem, and only {have} of "
                f"the {len(task.train)} problems of {task.name!r} have one; the first without: "
                f"{lacking[0].question[:60]!r}"
            )
    if "answer" in method.needs and task.reward is None and task.correct is None:
        raise ValueError(
            f"method {method.name!r} needs answers that can be graded, and the task "
            f"{task.name!r} has no verifier"
        )


def stand_in(method: Method, models: Models, task: Task, problems: Sequence[Problem]) -> Batch:
    """The batch of the longest completions a rollout can bring, without drawing a token."""
    length = getattr(method.rollout, "length", None)
    inner = getattr(method.rollout, "inner", None)
    length = inner.length if inner is not None else length
    if length is None:
        return method.rollout(problems, models, task, 0)
    prompts = [models.policy.render(task.prompt(problem)) for problem in problems]
    return batch_of(problems, prompts, [[models.policy.end] * length] * len(problems), task)


def example(method: Method, models: Models, batch: Batch) -> list[Example]:
    """Who reads what for the first row, special tokens included, the trained tokens marked.

    Where completions are drawn, the solution stands in for the first that will be.
    """
    problem = batch.rows[0]
    if batch.own[0].any() and getattr(method.rollout, "length", None) is not None:
        prompt = batch.ids[0][batch.real[0] & ~batch.own[0]].tolist()
        written = models.policy.encode(problem.solution or "...")
        batch = batch_of([problem], [prompt], [written], batch.task)
    shown = []
    for name, view in method.views(batch, models).items():
        ids = view.ids[0][view.real[0]].tolist()
        spoken = view.at[0][view.asked[0]].tolist()
        start = spoken[0] + 1 if spoken else len(ids)
        decode = models[view.role].tokenizer.decode
        role = name if name == view.role else f"{name} ({view.role})"
        shown.append(
            Example(role, ((decode(ids[:start]), False), (decode(ids[start:]), view.grad)))
        )
    return shown
