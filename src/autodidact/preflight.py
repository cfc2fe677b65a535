"""Before work starts: does the data have what the method needs, does everything fit, and what
does one example look like?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autodidact.batch import Batch, batch_of
from autodidact.engine import Request
from autodidact.engines.prefill import empty_cache
from autodidact.grade import graded
from autodidact.law import Law
from autodidact.method import Method
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rendering import check_rendering
from autodidact.rollouts.sample import opening

CHUNK = 64
MET = 4
"""Problems of which rows are drawn to see who reads them."""
TEMPLATE = 512
HOLE, HOLES = "_", 32
"""How a token that is to be written is shown, and how many at most after a prompt."""


@dataclass(frozen=True)
class Example:
    """What one role reads for one problem: pieces of text, each trained on or not."""

    role: str
    pieces: tuple[tuple[str, bool], ...]


def check(method: Method, models: Models, task: Task) -> list[Example]:
    """Refuse data or prompts that the method cannot work with; else show one example.

    Raises:
        ValueError: a problem lacks a field that the method needs, or does not fit the context of
            a model that reads it (nothing is ever cut silently), or a model that the local engine
            cannot draw from. What another engine says, see `check_engine`.
    """
    if not task.train:
        raise ValueError(f"the task {task.name!r} has no problem to train on")
    check_needs(method, task)
    check_kind(method, models, task)
    check_rendering(models.policy, task)
    if method.masked:
        return [canvas_example(method, models, task)]
    if method.rollout.draws and models.engine is None:
        empty_cache(models.policy)
    first: Batch | None = None
    context = models.policy.context
    doubtful = [p for p in task.train[1:] if at_most(method, task, p) > context]
    problems = [task.train[0], *doubtful]
    for start in range(0, len(problems), CHUNK):
        batch = stand_in(method, models, task, problems[start : start + CHUNK])
        first = first or batch.select([0])
        views = method.views(batch, models)
        for view in views.values():
            lengths = view.real.sum(1)
            context = models[view.role].context
            if int(lengths.max()) > context:
                row = int(lengths.argmax())
                raise ValueError(
                    f"the problem {batch.rows[row].place} needs {int(lengths[row])} "
                    f"tokens (prompt and at most {batch.own[row].sum()} of completion), more than "
                    f"the context of {context} tokens"
                )
    assert first is not None
    return example(method, models, first)


def meet(method: Method, models: Models, task: Task) -> None:
    """Make every role that a method reads, before its weights move or are spread.

    What a masked method reads is known of rows that were drawn.
    """
    for role in method.roles:
        assert models[role]
    if not method.masked:
        return
    with models.uncharged(), torch.no_grad():
        batch = method.rollout.fresh()(task.train[:MET], models, task, 0)
        batch = graded(batch, models)
        if len(batch):
            batch = method.credit(batch.to(models.policy.device), models)
            for view in method.views(batch, models).values() if len(batch) else ():
                assert models[view.role]


def check_kind(method: Method, models: Models, task: Task) -> None:
    """Refuse a masked model where a causal one is trained, the other way round, and canvases that
    no masked model fills or that do not fit."""
    policy = models.policy
    if method.masked == policy.causal:
        kinds = ("causal", "masked")
        raise ValueError(
            f"method {method.name!r} trains {kinds[method.masked]} language models, and "
            f"{policy.name!r} is a {kinds[not policy.causal]} one"
        )
    if not method.masked:
        if task.canvas is not None:
            raise ValueError(
                f"the task {task.name!r} has canvases to fill in, which only a masked model does"
            )
        return
    assert policy.mask >= 0
    length = drawn_length(method) or 0
    for problem in task.train:
        prompt, places = opening(policy, task, problem)
        size = len(prompt) + (len(places) or length)
        if size > policy.context:
            raise ValueError(
                f"the problem {problem.place} needs {size} tokens, more than the context of "
                f"{policy.context} tokens"
            )


def canvas_example(method: Method, models: Models, task: Task) -> Example:
    """What a masked policy reads of the first problem, with a hole for each token to be written."""
    policy = models.policy
    prompt, places = opening(policy, task, task.train[0])
    decode = policy.tokenizer.decode
    pieces = [(decode(prompt), False)] if prompt else []
    for word in places or [None] * min(drawn_length(method) or 0, HOLES):
        pieces.append((HOLE, True) if word is None else (decode([word]), False))
    return Example("policy", tuple(pieces))


def check_engine(method: Method, models: Models, task: Task) -> None:
    """Have an engine that was asked for draw one token, and refuse where it refuses."""
    if models.engine is None or method.masked or not method.rollout.draws:
        return
    prompt = tuple(models.policy.render(task.prompt(task.train[0])))
    with models.opened():
        models.engine.draw(models.policy, [Request(prompt, 0, 1)], Law(), 0)


def check_held(models: Models, task: Task, problems: Sequence[Problem], length: int) -> None:
    """Refuse problems whose prompt and `length` more tokens do not fit the context."""
    for problem in problems:
        prompt, places = opening(models.policy, task, problem)
        size, length = len(prompt), len(places) or length
        if size + length > models.policy.context:
            raise ValueError(
                f"the prompt of the problem {problem.place} has {size} tokens; "
                f"with {length} for its completion it does not fit the context of "
                f"{models.policy.context} tokens"
            )


def at_most(method: Method, task: Task, problem: Problem) -> int:
    """A number of tokens that no view of the problem exceeds, without rendering it.

    A token is at least one byte of text; what a chat template adds is taken to be at most
    `TEMPLATE` tokens. A longer template is met when the row is made: `reread` never cuts.
    """
    texts = [message["content"] for message in task.prompt(problem)]
    if problem.solution is not None:
        texts += [message["content"] for message in task.privileged(problem)]
        texts.append(problem.solution)
    texts += [text for text in problem.meta.values() if isinstance(text, str)]
    return sum(len(text.encode()) for text in texts) + (drawn_length(method) or 0) + TEMPLATE


def drawn_length(method: Method) -> int | None:
    """The most tokens that the method's rollout draws in a row; `None` if it draws none."""
    return getattr(getattr(method.rollout, "inner", method.rollout), "length", None)


def check_needs(method: Method, task: Task) -> None:
    """Refuse a task whose problems lack a field that the method needs."""
    for field in method.needs:
        if field == "answer" and not task.reward_reads_answers:
            continue
        lacking = [p for p in task.train if not getattr(p, field)]
        if lacking:
            have = len(task.train) - len(lacking)
            raise ValueError(
                f"method {method.name!r} needs the {field} of every problem, and only {have} of "
                f"the {len(task.train)} problems of {task.name!r} have one; the first without: "
                f"{lacking[0].place}"
            )
    if "answer" in method.needs and task.reward is None and task.correct is None:
        raise ValueError(
            f"method {method.name!r} needs answers that can be graded, and the task "
            f"{task.name!r} has no verifier"
        )


def stand_in(method: Method, models: Models, task: Task, problems: Sequence[Problem]) -> Batch:
    """The batch of the longest completions a rollout can bring, without drawing a token."""
    length = drawn_length(method)
    if length is None:
        return method.rollout(problems, models, task, 0)
    prompts = [models.policy.render(task.prompt(problem)) for problem in problems]
    return batch_of(problems, prompts, [[models.policy.end] * length] * len(problems), task)


def example(method: Method, models: Models, batch: Batch) -> list[Example]:
    """Who reads what for the first row, special tokens included, the trained tokens marked.

    Where completions are drawn, the solution stands in for the first that will be.
    """
    problem = batch.rows[0]
    if drawn_length(method) is not None:
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
