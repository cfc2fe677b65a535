"""Rollouts that draw completions from the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autodidact.batch import Batch, batch_of
from autodidact.engine import Engine, Request
from autodidact.engines.denoise import Denoise
from autodidact.engines.local import Local
from autodidact.engines.prefill import tokens_read
from autodidact.law import Law
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.store import Completion


@dataclass(frozen=True)
class Sample(Rollout):
    """n completions of each problem, drawn from the policy.

    Streams: `logp` [B, T] under the law of sampling, `raw` [B, T] the same without truncation,
    `finished` [B], 1 where the end token came before the length ran out, and where the law
    truncates `support` [B, T, K], the words it left, filled up with -1. Rows of one problem stand
    together and share a group.

    Attributes:
        n: completions of each problem.
        length: at most this many tokens each.
        engine: what draws them; by default that of the models.
    """

    n: int = 1
    length: int = 1024
    law: Law = field(default_factory=Law)
    engine: Engine | None = field(default=None, kw_only=True)

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        drawn = solve(models, task, problems, self.n, self.length, self.law, seed, self.engine)
        prompts = [opening(models.policy, task, problem)[0] for problem in problems]
        return sampled_batch(problems, prompts, drawn, task, self.law, ends=models.policy.ends)


def opening(lm: LM, task: Task, problem: Problem) -> tuple[list[int], tuple[int | None, ...]]:
    """What a completion of a problem begins with: its prompt, and its canvas where it has one.

    Raises:
        ValueError: a piece of a canvas is not one token.
    """
    if task.canvas is None:
        return lm.render(task.prompt(problem)), ()
    messages = task.prompt(problem)
    places: list[int | None] = []
    for piece in task.canvas(problem):
        ids = [None] if piece is None else lm.encode(piece)[:-1]
        if len(ids) != 1:
            raise ValueError(
                f"the canvas of {problem.place} has the piece {piece!r}, which is {len(ids)} "
                f"tokens of {lm.name}; allowed: one"
            )
        places += ids
    return lm.render(messages) if messages else [], tuple(places)


def solve(
    models: Models,
    task: Task,
    problems: Sequence[Problem],
    n: int,
    length: int,
    law: Law,
    seed: int,
    engine: Engine | None = None,
) -> list[list[Completion]]:
    """n completions of each problem by the policy, on its canvas where the task has one."""
    begun = [opening(models.policy, task, problem) for problem in problems]
    if task.canvas is None:
        return complete(models, [prompt for prompt, _ in begun], n, length, law, seed, engine)
    named = [
        [*prompt, *(-1 if word is None else word for word in places)] for prompt, places in begun
    ]
    pairs = zip(begun, sample_numbers(named, n), strict=True)
    asked = [
        Request(tuple(prompt), k, len(places), canvas=places)
        for (prompt, places), numbers in pairs
        for k in numbers
    ]
    found = iter(answer(models, asked, law, seed, engine))
    return [[next(found) for _ in range(n)] for _ in problems]


def complete(
    models: Models,
    prompts: Sequence[Sequence[int]],
    n: int,
    length: int,
    law: Law,
    seed: int,
    engine: Engine | None = None,
) -> list[list[Completion]]:
    """n completions of each prompt by the policy. A prompt that comes twice gets others then.

    Args:
        engine: that of the models by default.
    """
    pairs = zip(prompts, sample_numbers(prompts, n), strict=True)
    asked = [Request(tuple(prompt), k, length) for prompt, numbers in pairs for k in numbers]
    found = iter(answer(models, asked, law, seed, engine))
    return [[next(found) for _ in range(n)] for _ in prompts]


def answer(
    models: Models,
    requests: Sequence[Request],
    law: Law,
    seed: int,
    engine: Engine | None = None,
) -> list[Completion]:
    """A completion of each request by the policy, drawn, or read from the store where it lies.

    Either way the ledger counts it: an arm pays for what it uses, prompts included.

    Args:
        engine: that of the models by default.
    """
    maker: Engine = engine or models.engine or (Local() if models.policy.causal else Denoise())
    # What a masked model writes is not kept: a store has no place for its order.
    store, origin = models.store if models.policy.causal else None, {}
    known: dict[int, Completion] = {}
    if store is not None and models.version is not None:
        origin = {
            "version": models.version, "law": law.describe(), "seed": seed, "engine": maker.name
        }  # fmt: skip
        for i, request in enumerate(requests):
            if (found := store.find(*_named(origin, request))) is not None:
                known[i] = found
    models.ledger.reused += sum(len(each.ids) for each in known.values())
    missing = [i for i in range(len(requests)) if i not in known]
    read = tokens_read(models.policy, list(dict.fromkeys(r.read for r in requests))) if known else 0
    if missing:
        drawn = maker.draw(models.policy, [requests[i] for i in missing], law, seed)
        read = read or drawn.read
        known |= dict(zip(missing, drawn.completions, strict=True))
        models.ledger.drafted += drawn.drafted
        models.ledger.teacher_forward += drawn.verified
        models.ledger.calls += drawn.calls
        if store is not None and origin:
            with store.together():
                for i in missing:
                    store.add(*_named(origin, requests[i]), known[i])
    models.ledger.prefilled += read
    models.ledger.generated += sum(each.written for each in known.values())
    return [known[i] for i in range(len(requests))]


def _named(origin: dict, request: Request) -> tuple[dict, tuple[int, ...], int]:
    """What determines a completion: the key of the store."""
    more = {"length": request.length, "begun": len(request.begun)}
    return origin | more, request.read, request.sample


def sample_numbers(prompts: Sequence[Sequence[int]], n: int) -> list[range]:
    """The numbers of the n samples of each prompt: 0 to n - 1, then n to 2n - 1 if it recurs."""
    seen: Counter[tuple[int, ...]] = Counter()
    numbers = []
    for prompt in map(tuple, prompts):
        numbers.append(range(seen[prompt] * n, (seen[prompt] + 1) * n))
        seen[prompt] += 1
    return numbers


def sampled_batch(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    drawn: Sequence[Sequence[Completion]],
    task: Task,
    law: Law,
    *,
    own: Sequence[Sequence[bool]] | None = None,
    tokens: Mapping[str, Sequence[Sequence[float]]] | None = None,
    ends: Collection[int] = (),
) -> Batch:
    """Completions of problems as a batch, one group for each problem.

    Those of a masked model bring the streams `order` [B, T], the step at which a token was
    written, and `canvas`, 1 at their tokens. Own are those that were written, up to the first
    that ends the text.

    Args:
        ends: the tokens that do.
        own: which tokens of each completion the policy chose; all by default.
        tokens: further [B, T] streams, one value for each token of each completion.
    """
    rows = [(i, each) for i, completions in enumerate(drawn) for each in completions]
    supports = [each.support for _, each in rows if each.support is not None]
    orders = [each.order for _, each in rows if each.order is not None]
    if orders:
        own = [_written(each, ends) for _, each in rows]
        tokens = {"order": orders, "canvas": [[1.0] * len(each) for each in orders]}
    return batch_of(
        [problems[i] for i, _ in rows],
        [prompts[i] for i, _ in rows],
        [each.ids for _, each in rows],
        task,
        group=[i for i, _ in rows],
        temperature=law.temperature or 1.0,
        tokens={
            "logp": [e.logp for _, e in rows], "raw": [e.raw for _, e in rows], **(tokens or {})
        },
        words={"support": supports} if law.truncates and not orders else None,
        values={"finished": [float(e.finished) for _, e in rows]},
        own=own,
    )  # fmt: skip


def _written(completion: Completion, ends: Collection[int]) -> list[bool]:
    """Which tokens of a canvas the model wrote, up to the first that ends the text."""
    assert completion.order is not None
    ids = completion.ids
    last = next((i for i, word in enumerate(ids) if word in ends), len(ids))
    return [step > 0 and i <= last for i, step in enumerate(completion.order)]
