"""Rollouts in which pieces of a reference stand in the canvas from the start.

Shapes: L places of a canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from autodidact.batch import Batch, join
from autodidact.engine import Engine, Request
from autodidact.grade import grade
from autodidact.law import Law, prompt_key, uniform
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.ranking import members
from autodidact.rollouts.sample import answer, opening, sample_numbers, sampled_batch, solve

Places = tuple[int | None, ...]


@dataclass(frozen=True)
class Hints:
    """How much of a reference is shown, in pieces of random sizes at random places (IGPO).

    The reference is cut into pieces of `shortest` to `longest` tokens. A share between `least` and
    `most` of them, drawn for each completion and rounded down, is shown.

    Raises:
        ValueError: bounds that are no shares, no sizes, or in the wrong order.
    """

    least: float = 0.2
    most: float = 0.6
    shortest: int = 5
    longest: int = 10

    def __post_init__(self):
        if not 0 <= self.least <= self.most <= 1:
            raise ValueError(
                f"hints from {self.least} to {self.most}: shares from 0 to 1, the least first"
            )
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"pieces of {self.shortest} to {self.longest} tokens: from 1 on, the shortest first"
            )

    def shown(self, tokens: int, seed: int, key: int, sample: int) -> list[int]:
        """Which of so many reference tokens a completion is shown."""
        places = torch.arange(2 * tokens + 1)
        keys, samples = torch.full_like(places, key), torch.full_like(places, sample)
        chance = uniform(~seed, keys, samples, places).tolist()
        share = self.least + (self.most - self.least) * chance[0]
        pieces: list[range] = []
        while (start := pieces[-1].stop if pieces else 0) < tokens:
            size = self.shortest + int(chance[1 + len(pieces)] * (self.longest - self.shortest + 1))
            pieces.append(range(start, min(start + size, tokens)))
        ranked = sorted(range(len(pieces)), key=lambda i: chance[1 + tokens + i])
        return [place for i in ranked[: int(share * len(pieces))] for place in pieces[i]]


@dataclass(frozen=True)
class Inpaint(Rollout):
    """n completions of each problem; where none is right, some are drawn anew with hints.

    Of the new ones that are right as many as there are, and at most the share `replaced` of n,
    take the places of the first of the group. A group with a right completion is left as it is.
    Tokens of a hint are own ones, written at step 1, with `logp` and `raw` 0: nobody drew them.

    Streams: those of `Sample` and of `grade`, and `hint` [B, T], 1 at tokens of a hint.

    Source: IGPO, arXiv 2509.10396.

    Attributes:
        replaced: at most this share of a group.
        engine: what draws; by default that of the models.

    Raises:
        ValueError: `replaced` outside 0 to 1; and when drawing, a problem without a solution.
    """

    n: int = 8
    length: int = 256
    law: Law = field(default_factory=Law)
    hints: Hints = field(default_factory=Hints)
    replaced: float = 0.5
    engine: Engine | None = None

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length)
        if not 0 <= self.replaced <= 1:
            raise ValueError(f"replaced={self.replaced} is a share: it must be from 0 to 1")

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        drawn = solve(models, task, problems, self.n, self.length, self.law, seed, self.engine)
        plain = self._batch(problems, drawn, models, task)
        plain = plain.put(hint=torch.zeros(plain.own.shape))
        groups = members(plain)
        failed = [i for i, rows in enumerate(groups) if not _right(plain)[rows].any()]
        asked = self._hinted(problems, failed, models, task, seed)
        if not asked:
            return plain
        made = answer(models, [request for _, request in asked], self.law, seed, self.engine)
        again = [problems[i] for i, _ in asked]
        tried = self._batch(again, [[each] for each in made], models, task)
        tried = _marked(tried, [request for _, request in asked], models.policy)
        for row in _right(tried).nonzero().flatten().tolist():
            rows = groups[asked[row][0]]
            new = sum(each >= len(plain) for each in rows)
            if new < int(self.replaced * self.n):
                rows[new] = len(plain) + row
        whole = join([plain, tried]).select([row for rows in groups for row in rows])
        return replace(whole, group=plain.group)

    def _batch(self, problems, drawn, models, task) -> Batch:
        prompts = [opening(models.policy, task, problem)[0] for problem in problems]
        ends = models.policy.ends
        batch = sampled_batch(problems, prompts, drawn, task, self.law, ends=ends)
        return grade(batch, models)

    def _hinted(self, problems, failed, models, task, seed) -> list[tuple[int, Request]]:
        """Requests with hints for the problems of these numbers; none where none is shown."""
        lm, found = models.policy, []
        begun = [opening(lm, task, problem) for problem in problems]
        named = [[*p, *(-1 if w is None else w for w in places)] for p, places in begun]
        numbers = sample_numbers(named, self.n)
        for i in failed:
            prompt, places = begun[i]
            places = places or (None,) * self.length
            for sample in numbers[i]:
                canvas = self._shown(lm, task, problems[i], places, seed, named[i], sample)
                if canvas != places:
                    found.append((i, Request(tuple(prompt), sample, len(places), canvas=canvas)))
        return found

    def _shown(self, lm, task, problem, places: Places, seed, name, sample) -> Places:
        """A canvas with hints, at places that were to be written."""
        ids = written_out(lm, task, problem, len(places))
        if task.canvas is None:
            ids = ids[: len(lm.encode(_before(problem))) - 1]
        free = [place for place in range(len(ids)) if places[place] is None]
        canvas = list(places)
        for number in self.hints.shown(len(free), seed, prompt_key(name), sample):
            canvas[free[number]] = ids[free[number]]
        return tuple(canvas)


def written_out(lm: LM, task: Task, problem: Problem, size: int) -> list[int]:
    """The tokens of a problem's solution at the places of its canvas, the first `size` at most.

    Raises:
        ValueError: there is no solution, or the canvas of the task has another number of places.
    """
    if problem.solution is None:
        raise ValueError(f"{problem.place} has no solution to show")
    ids = lm.encode(problem.solution)[:-1]
    if task.canvas is not None and len(ids) != size:
        raise ValueError(
            f"the solution of {problem.place} has {len(ids)} tokens of {lm.name}, and its canvas "
            f"has {size} places: they must be as many"
        )
    return ids[:size]


def _before(problem: Problem) -> str:
    """A solution up to where it last states the answer."""
    solution = problem.solution or ""
    cut = solution.rfind(problem.answer) if problem.answer else -1
    return solution[:cut] if cut >= 0 else solution


def _right(batch: Batch) -> torch.Tensor:
    """Which rows are right [B]: where nobody can judge, those that earned anything."""
    correct, reward = batch.take("correct"), batch.take("reward")
    return torch.where(correct.isnan(), reward.nan_to_num() > 0, correct == 1)


def _marked(batch: Batch, requests: Sequence[Request], lm: LM) -> Batch:
    """The batch with the tokens of hints as own ones of step 1, up to the end of the text."""
    hint = torch.zeros_like(batch.own)
    for row, request in enumerate(requests):
        places = opening(lm, batch.task, batch.rows[row])[1] or (None,) * len(request.canvas)
        pairs = zip(request.canvas, places, strict=True)
        new = [word is not None and given is None for word, given in pairs]
        hint[row, batch.take("canvas")[row] == 1] = torch.tensor(new)
    ends = torch.isin(batch.ids, torch.tensor(sorted(lm.ends))) & (batch.take("canvas") == 1)
    over = ends.long().cumsum(1) - ends.long() > 0
    order = torch.where(hint, 1.0, batch.take("order"))
    own = batch.own | (hint & ~over)
    return replace(batch, own=own).put(order=order, hint=hint.to(order.dtype))
