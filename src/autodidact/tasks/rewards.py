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
  `UserReward.extra`; `trainer_state` is always `None`.

Token ids are not passed: a reward here reads text. `None` and NaN mean "cannot be scored", as in
TRL, and so does an infinite number; a completion that no function scores has no reward, otherwise
it has the weighted sum of the functions that scored it.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from numbers import Real
from typing import Any, Literal, get_args

from autodidact.names import choose, nearest
from autodidact.problem import Message, Problem
from autodidact.tasks.importing import ALLOWED, load, raised

Form = Literal["auto", "text", "messages"]


def user_reward(
    spec: str | Sequence[str],
    *,
    form: Form = "auto",
    prompt: Callable[[Problem], list[Message]] | None = None,
) -> UserReward:
    """A reward from functions named by import path.

    Args:
        spec: `package.module:function` or `path/to/file.py:function`; several separated by commas
            or in a list, each perhaps with a weight (`a.py:f=0.7,b.py:g=0.3`; 1 without).
        form: what the functions read. `"text"`: strings. `"messages"`: lists of chat messages,
            what TRL passes for conversational data. `"auto"`: messages if the function annotates
            `completions` as a list of lists (as those of `trl.rewards` do), else text.
        prompt: what the model read, as `Task.prompt`; the question alone by default.

    Raises:
        ValueError: no such file, module or function, a weight that is no number, or a function
            that needs an argument which is not passed.
    """
    choose("form", form, get_args(Form))
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    if not parts:
        raise ValueError(f"reward {spec!r} names no function; allowed: {ALLOWED} (=weight)")
    terms = [_term(part.strip(), form) for part in parts]
    return UserReward(tuple(terms), prompt or _question)


@dataclass(frozen=True)
class Term:
    """One user function: its name for messages, its weight, and whether it reads messages."""

    name: str
    function: Callable[..., Any]
    weight: float
    messages: bool
    wanted: frozenset[str] | None
    required: tuple[str, ...]


@dataclass(frozen=True)
class UserReward:
    """The weighted sum of user functions; call it as a `Reward`.

    Attributes:
        terms: the functions.
        prompt: what the model read for a problem.
        unscored: how many scores were missing so far, by reason
            (`"a.py:f returned NaN"`).
        metrics, extra: what the functions logged, the latest values by name.
    """

    terms: tuple[Term, ...]
    prompt: Callable[[Problem], list[Message]]
    unscored: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def __call__(
        self, problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[float | None]:
        """Scores, one a completion; `None` where no function gave one.

        Raises:
            ValueError: a function failed, or returned something else than a list with one number
                or `None` a completion; names the function.
        """
        if not completions:
            return []
        columns = _columns(problems)
        calls = [self._arguments(term, problems, completions, columns) for term in self.terms]
        waiting = {
            index: _awaited(term, call)
            for index, (term, call) in enumerate(zip(self.terms, calls, strict=True))
            if inspect.iscoroutinefunction(_callable(term.function))
        }
        results = dict(zip(waiting, _gather(waiting.values()), strict=True)) if waiting else {}
        scores = []
        for index, (term, call) in enumerate(zip(self.terms, calls, strict=True)):
            result = results[index] if index in results else _called(term, call)
            scores.append(self._checked(term, result, len(completions)))
        return [self._sum(row) for row in zip(*scores, strict=True)]

    def _arguments(
        self,
        term: Term,
        problems: Sequence[Problem],
        completions: Sequence[str],
        columns: dict[str, list[Any]],
    ) -> dict[str, Any]:
        if missing := [name for name in term.required if name not in columns and name not in _OWN]:
            raise ValueError(
                f"reward function {term.name} needs the column {missing[0]!r}, which the data does "
                f"not have; columns: {', '.join(columns)}{nearest(missing[0], columns)}"
            )
        prompts = [self.prompt(problem) for problem in problems]
        arguments: dict[str, Any] = {
            **{name: list(values) for name, values in columns.items()},
            "prompts": prompts if term.messages else ["\n\n".join(_texts(p)) for p in prompts],
            "completions": [[{"role": "assistant", "content": text}] for text in completions]
            if term.messages
            else list(completions),
            "log_metric": lambda name, value: self.metrics.__setitem__(name, float(value)),
            "log_extra": lambda name, values: self.extra.__setitem__(name, list(values)),
            "trainer_state": None,
        }
        if term.wanted is None:
            return arguments
        return {name: value for name, value in arguments.items() if name in term.wanted}

    def _checked(self, term: Term, result: Any, count: int) -> list[float | None]:
        values = result.tolist() if hasattr(result, "tolist") else result
        if not isinstance(values, list | tuple):
            raise ValueError(
                f"reward function {term.name} returned {type(result).__name__}; "
                "allowed: a list with a number or None for each completion"
            )
        if len(values) != count:
            raise ValueError(
                f"reward function {term.name} returned {len(values)} rewards for {count} "
                "completions; allowed: exactly one each"
            )
        return [self._number(term, index, value) for index, value in enumerate(values)]

    def _number(self, term: Term, index: int, value: Any) -> float | None:
        value = value.item() if hasattr(value, "item") else value
        if value is not None and not isinstance(value, Real):
            raise ValueError(
                f"reward function {term.name} returned {value!r:.60} ({type(value).__name__}) for "
                f"completion {index}; allowed: a number or None"
            )
        if value is None or not math.isfinite(value):
            found = "None" if value is None else "NaN" if math.isnan(value) else "infinity"
            self.unscored[f"{term.name} returned {found}"] += 1
            return None
        return float(value)

    def _sum(self, scores: Sequence[float | None]) -> float | None:
        parts = [
            term.weight * score
            for term, score in zip(self.terms, scores, strict=True)
            if score is not None
        ]
        return math.fsum(parts) if parts else None


_OWN = ("prompts", "completions", "log_metric", "log_extra", "trainer_state")


def _term(spec: str, form: Form) -> Term:
    _, equals, weight = spec.rpartition(":")[2].partition("=")
    name = spec.removesuffix(equals + weight)
    try:
        factor = float(weight) if equals else 1.0
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise ValueError(f"weight {weight!r} in reward {spec!r}; allowed: a finite number")
    function = load(name)
    parameters = inspect.signature(function).parameters
    kinds = inspect.Parameter
    named = {n: p for n, p in parameters.items() if p.kind is not kinds.VAR_KEYWORD}
    if any(p.kind in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL) for p in named.values()):
        raise ValueError(
            f"reward function {name} takes unnamed arguments; allowed: "
            "f(prompts, completions, **columns)"
        )
    if "completion_ids" in named and named["completion_ids"].default is kinds.empty:
        raise ValueError(
            f"reward function {name} needs completion_ids; token ids are not passed to "
            "rewards, which read text"
        )
    if form == "auto":
        annotation = str(getattr(named.get("completions"), "annotation", ""))
        messages = annotation.replace("typing.", "").lower().startswith("list[list[")
    else:
        messages = form == "messages"
    return Term(
        name,
        function,
        factor,
        messages,
        frozenset(named) if len(named) == len(parameters) else None,
        tuple(n for n, p in named.items() if p.default is kinds.empty),
    )


def _columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    names = {name: None for problem in problems for name in problem.meta if name[:1] != "_"}
    columns = {name: [problem.meta.get(name) for problem in problems] for name in names}
    for name in ("question", "solution", "answer"):
        columns[name] = [getattr(problem, name) for problem in problems]
    return columns


def _called(term: Term, arguments: dict[str, Any]) -> Any:
    try:
        return term.function(**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise _failure(term, error) from error


async def _awaited(term: Term, arguments: dict[str, Any]) -> Any:
    try:
        return await term.function(**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise _failure(term, error) from error


def _failure(term: Term, error: Exception) -> ValueError:
    hint = "; does it read chat messages? Then say form='messages'"
    hint = hint if isinstance(error, TypeError) and not term.messages else ""
    return ValueError(f"reward function {term.name} raised {raised(error)}{hint}")


def _callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that runs on a call: `__call__` of an object."""
    return function if inspect.isroutine(function) else type(function).__call__


def _gather(calls: Any) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*calls)

    return asyncio.run_coroutine_threadsafe(all_of_them(), _loop()).result()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all calls, so that the clients a function keeps open stay usable."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rewards", daemon=True)
    thread.start()

    def stop() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    atexit.register(stop)
    return loop


def _question(problem: Problem) -> list[Message]:
    return [{"role": "user", "content": problem.question}]


def _texts(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages]
