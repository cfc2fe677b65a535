"""Rewards as users write them, in the signature that TRL's trainers call.

    def brevity(prompts, completions, answer, **columns) -> list[float | None]:
        return [1.0 if a in c and len(c) < 200 else 0.0 for c, a in zip(completions, answer)]

`user_reward("my_rewards.py:brevity")` makes it a reward of this library;
`user_reward("a.py:f=0.7,b.py:g=0.3")` adds several with weights. A function may be `async`; all
async ones run at once. It is called with lists, one entry a completion:

- `prompts`, `completions`: text, or lists of chat messages (`form`).
- `question`, `solution`, `answer`, and every further column of the data (`Problem.meta`), `None`
  where a row has none. A function without `**columns` gets the columns it names.
- `log_metric(name, value)` and `log_extra(name, values)`, which land in `UserReward.metrics` and
  `UserReward.extra`, and the numbers also in the step's line of metrics.jsonl, as `logged`;
  `trainer_state` is always `None`.

Token ids are not passed: a reward here reads text. `None` and NaN mean "cannot be scored", as in
TRL, and so does an infinite number; a completion that no function scores has no reward, otherwise
it has the weighted sum of the functions that scored it.

The functions run in a process of their own (`worker`), kept between calls, under `Limits`; what
crosses is JSON. Where a call raises, hangs or ends the process, its completions are asked again one
by one, and only those that fail again cannot be scored. A function that is no import path, such as
one put into `Task.reward` in Python, runs in this process without limits.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from autodidact import notes
from autodidact.names import choose, nearest
from autodidact.problem import Message, Problem
from autodidact.tasks.importing import ALLOWED
from autodidact.tasks.limits import Limits
from autodidact.tasks.terms import Form, Term, term_of, worker_for
from autodidact.tasks.worker import Worker, WorkerError

LARGEST = 1e15
"""Largest reward; the squares of larger ones get lost or overflow in float32."""
PATIENCE = 10
"""How many times the wall limit asking one by one may take in all."""
LINES = 3
"""Lines that a message quotes of what a function printed, or of where it stood."""
_TOOLS = ("log_metric", "log_extra", "trainer_state")
_OWN = ("prompts", "completions", *_TOOLS)


class _Failure(NamedTuple):
    """Why completions have no score: in short, to be counted, and with all that is known."""

    kind: str
    text: str


def user_reward(
    spec: str | Sequence[str],
    *,
    form: Form = "auto",
    prompt: Callable[[Problem], list[Message]] | None = None,
    limits: Limits | str | None = None,
) -> UserReward:
    """A reward from functions named by import path.

    Args:
        spec: `package.module:function` or `path/to/file.py:function`; several separated by commas
            or in a list, each perhaps with a weight (`a.py:f=0.7,b.py:g=0.3`; 1 without).
        form: what the functions read. `"text"`: strings. `"messages"`: lists of chat messages,
            what TRL passes for conversational data. `"auto"`: messages if the function annotates
            `completions` as a list of lists (as those of `trl.rewards` do), else text.
        prompt: what the model read, as `Task.prompt`; the question alone by default.
        limits: of their process, see `Limits`; as text, `"seconds=300,env=OPENAI_API_KEY"`.

    Raises:
        ValueError: no such file, module or function, a weight that is no number, or a function
            that needs an argument which is not passed.
    """
    choose("form", form, get_args(Form))
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    if not parts:
        raise ValueError(f"reward {spec!r} names no function; allowed: {ALLOWED} (=weight)")
    bounds = limits if isinstance(limits, Limits) else Limits.of(limits or "")
    worker = worker_for(bounds)
    terms = [term_of(part.strip(), form, worker, bounds) for part in parts]
    return UserReward(tuple(terms), prompt or _question, bounds, worker)


@dataclass(frozen=True)
class UserReward:
    """The weighted sum of user functions; call it as a `Reward`.

    Attributes:
        terms: the functions.
        prompt: what the model read for a problem.
        limits, worker: of the process, and the process.
        unscored: how many scores were missing so far, by reason
            (`"a.py:f returned NaN"`, `"a.py:f raised KeyError"`); those of a step are in its line
            of metrics.jsonl.
        metrics, extra: what the functions logged, the latest values by name.
    """

    terms: tuple[Term, ...]
    prompt: Callable[[Problem], list[Message]]
    limits: Limits
    worker: Worker
    unscored: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def __call__(
        self, problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[float | None]:
        """Scores, one a completion; `None` where no function gave one.

        Raises:
            ValueError: a function returned something else than a list with one number or `None` a
                completion, or failed on more of them than the limits allow; names the function.
        """
        if not completions:
            return []
        columns = _columns(problems)
        calls = [self._arguments(term, problems, completions, columns) for term in self.terms]
        scores = []
        found = self._asked(self.terms, calls, self.limits.seconds)
        for term, call, values in zip(self.terms, calls, found, strict=True):
            if isinstance(values, _Failure):
                scores.append(self._one_by_one(term, call, values))
            else:
                scores.append([self._number(term, value) for value in values])
        return [self._sum(row) for row in zip(*scores, strict=True)]

    def _asked(
        self, terms: Sequence[Term], calls: Sequence[dict[str, list[Any]]], wall: float
    ) -> list[list[float | None] | _Failure]:
        """What the functions return, or why they do not."""
        request = [
            (term.name, len(call["completions"]), [t for t in _TOOLS if term.takes(t)],
             {name: values for name, values in call.items() if term.takes(name)})
            for term, call in zip(terms, calls, strict=True)
        ]  # fmt: skip
        try:
            reply = self.worker.ask({"calls": request}, wall)
        except WorkerError as error:
            if len(terms) > 1:  # to find out which of them it was
                pairs = zip(terms, calls, strict=True)
                return [self._asked([term], [call], wall)[0] for term, call in pairs]
            return [_Failure(error.reason, " | ".join([error.reason, *_last_words(error.said)]))]
        self.metrics.update(reply["metrics"])
        notes.log(reply["metrics"])
        self.extra.update(reply["extra"])
        return [_read(term, found) for term, found in zip(terms, reply["results"], strict=True)]

    def _one_by_one(
        self, term: Term, call: dict[str, list[Any]], why: _Failure
    ) -> list[float | None]:
        """The scores of completions asked alone, as asking them together failed."""
        count, ends = len(call["completions"]), time.monotonic() + PATIENCE * self.limits.seconds
        scores: list[float | None] = []
        failed: list[_Failure] = []
        for row in range(count):
            alone = {name: [values[row]] for name, values in call.items()}
            wall = min(self.limits.seconds, ends - time.monotonic())
            found: list[float | None] | _Failure = why
            if wall <= 0:
                found = _Failure("was not asked: time is up", why.text)
            elif count > 1:
                found = self._asked([term], [alone], wall)[0]
            if isinstance(found, _Failure):
                failed.append(found)
                self._missing(f"{term.name} {found.kind}")
                if len(failed) > self.limits.unscorable * count:
                    raise ValueError(
                        f"reward function {term.name} {failed[0].text}; {len(failed)} of the first "
                        f"{row + 1} of {count} completions cannot be scored, allowed: a share of "
                        f"{self.limits.unscorable:g}"
                    )
                scores.append(None)
            else:
                scores += [self._number(term, value) for value in found]
        warnings.warn(
            f"reward function {term.name} {why.text}; asked one by one, {len(failed)} of {count} "
            "completions could not be scored",
            stacklevel=3,
        )
        return scores

    def _arguments(
        self,
        term: Term,
        problems: Sequence[Problem],
        completions: Sequence[str],
        columns: dict[str, list[Any]],
    ) -> dict[str, list[Any]]:
        """What a function is called with; `completions` also where it does not take them."""
        if missing := [name for name in term.required if name not in columns and name not in _OWN]:
            raise ValueError(
                f"reward function {term.name} needs the column {missing[0]!r}, which the data does "
                f"not have; columns: {', '.join(columns)}{nearest(missing[0], columns)}"
            )
        taken = {name: values for name, values in columns.items() if term.takes(name)}
        for name, values in taken.items():
            try:
                json.dumps(values)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(
                    f"column {name!r} cannot be passed to reward function {term.name}: {error}; "
                    "allowed: what JSON can hold, or a function that names the columns it takes"
                ) from error
        prompts = [self.prompt(problem) for problem in problems]
        return {
            **taken,
            "prompts": prompts if term.messages else ["\n\n".join(_texts(p)) for p in prompts],
            "completions": [[{"role": "assistant", "content": text}] for text in completions]
            if term.messages
            else list(completions),
        }

    def _number(self, term: Term, value: float | None) -> float | None:
        if value is not None and abs(value) <= LARGEST:
            return value
        if value is None:
            found = "None"
        elif math.isfinite(value):
            found = f"a number beyond {LARGEST:g}"
        else:
            found = "NaN" if math.isnan(value) else "infinity"
        self._missing(f"{term.name} returned {found}")
        return None

    def _missing(self, reason: str) -> None:
        self.unscored[reason] += 1
        notes.unscored(reason)

    def _sum(self, scores: Sequence[float | None]) -> float | None:
        parts = [
            term.weight * score
            for term, score in zip(self.terms, scores, strict=True)
            if score is not None
        ]
        return math.fsum(parts) if parts else None


def _read(term: Term, found: dict[str, Any]) -> list[float | None] | _Failure:
    if "wrong" in found:
        raise ValueError(found["wrong"])
    if "raised" not in found:
        return found["values"]
    hint = "; does it read chat messages? Then say form='messages'"
    hint = hint if found["raised"] == "TypeError" and not term.messages else ""
    return _Failure(f"raised {found['raised']}", f"raised {found['text']}{hint}")


def _last_words(said: str) -> list[str]:
    """Where the user's code stood when its process was ended, else the last lines it printed."""
    _, dumped, frames = said.rpartition("(most recent call first):")
    if not dumped:
        return [line.strip() for line in said.splitlines()[-LINES:]]
    places = [line.strip() for line in frames.splitlines() if line.lstrip().startswith("File ")]
    return [place for place in places if "autodidact/tasks" not in place][:LINES]


def _columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    names = {name: None for problem in problems for name in problem.meta if name[:1] != "_"}
    columns = {name: [problem.meta.get(name) for problem in problems] for name in names}
    for name in ("question", "solution", "answer"):
        columns[name] = [getattr(problem, name) for problem in problems]
    return columns


def _question(problem: Problem) -> list[Message]:
    return [{"role": "user", "content": problem.question}]


def _texts(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages]
