"""Guards: a run whose numbers run away is warned about, and then stopped.

A guard compares the line of a step with that of the first step that had rows, as divergence is a
change: what was so from the start is a matter for a diagnosis, not for a stop. H0, L0, Q0 are
entropy, mean length and quality then; quality is the accuracy, or else the reward.

| guard | of | warns after 5 steps in a row | stops after 20 steps in a row |
|---|---|---|---|
| kl | KL(sampler, policy), nats a token | > 0.1 and > 10 times the start | > 3, same |
| mismatch | mean abs(log p trainer - log p sampler) | > 0.1 and > 10 times the start | > 2, same |
| ess | effective share of the tokens | < 0.2, from 0.5 or more | < 0.01, same |
| entropy, high | of the policy, V words | > 0.8 log V, from below 0.4 log V | > 0.95 log V, same |
| entropy, low | of the policy | < H0 / 20 and quality < 0.8 Q0 | < H0 / 100 and quality < Q0 / 4 |
| length | of completions | < L0 / 3 and quality < 0.8 Q0 | < L0 / 5 and quality < Q0 / 4 |
| truncated | share cut off | > 0.9, from 0.5 or less | 1, same, and quality < Q0 / 4 |

A policy that has mastered its task is sure of itself and may be brief: entropy and length are held
against a run only where quality fell with them. Without a quality a length of one token, from 10
or more, and completions that are all cut off, count by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from autodidact.rules import WINDOW, Diagnosis, Line, Rule, Streak

Guard = Literal["stop", "warn", "off"]

Holds = Callable[[Line, Line], bool]
"""(line of a step, line of the first one) -> whether a threshold is passed."""

LONG = 20
"""Steps in a row past the second threshold after which a run is stopped."""


class Halted(Exception):
    """A run that ended itself, for a reason that fits a line."""


class Diverged(Halted):
    """Halted between two steps: the state of the training is whole and may be saved."""


def _quality(line: Line, start: Line) -> float | None:
    """Accuracy, else reward, as a share of what it was at the start, if that was above 0."""
    for name in ("accuracy", "reward"):
        now, then = line.get(name), start.get(name)
        if now is not None and then is not None and then > 0:
            return now / then
    return None


def _fell(line: Line, start: Line, below: float, unknown: bool) -> bool:
    quality = _quality(line, start)
    return unknown if quality is None else quality < below


def _grew(name: str, above: float) -> Holds:
    return lambda x, start: x[name] > max(above, 10 * (start.get(name) or 0.0))


def _few(below: float) -> Holds:
    return lambda x, start: x["ess"] < below and (start.get("ess") or 0.0) >= 0.5


def _uniform(share: float) -> Holds:
    def holds(x: Line, start: Line) -> bool:
        most, then = start.get("uniform"), start.get("entropy")
        if most is None or then is None:
            return False
        return x["entropy"] > share * most and then < 0.4 * most

    return holds


def _shrank(name: str, part: float, below: float) -> Holds:
    def holds(x: Line, start: Line) -> bool:
        then = start.get(name)
        if then is None or x[name] >= part * then:
            return False
        alone = name == "length" and x[name] <= 1 and then >= 10
        return _fell(x, start, below, unknown=alone)

    return holds


def _endless(least: float, below: float) -> Holds:
    def holds(x: Line, start: Line) -> bool:
        then = start.get("truncated")
        if then is None or then > 0.5 or x["truncated"] < least:
            return False
        return _fell(x, start, below, unknown=True)

    return holds


_LOWER = "Lower the learning rate, or go back to a checkpoint from before."

GUARDS: dict[str, tuple[str, Holds, Holds, str, str, str]] = {
    "kl": (
        "kl", _grew("kl", 0.1), _grew("kl", 3.0),
        "The policy moved away from the law that draws its tokens",
        "What it learns from is no longer what it would write.",
        "Lower the learning rate, the epochs or staleness.",
    ),
    "mismatch": (
        "mismatch_mean", _grew("mismatch_mean", 0.1), _grew("mismatch_mean", 2.0),
        "Sampler and trainer came to disagree about the tokens",
        "Ratios and advantages are then those of another policy.",
        "Check that the engine has the newest weights; lower the learning rate or staleness.",
    ),
    "ess": (
        "ess", _few(0.2), _few(0.01),
        "Importance weights came to rest on few of the tokens",
        "The gradient is then that of a handful of tokens.",
        "Lower staleness or the learning rate.",
    ),
    "entropy_high": (
        "entropy", _uniform(0.8), _uniform(0.95),
        "The policy's laws became nearly uniform",
        "It writes noise.",
        _LOWER,
    ),
    "entropy_low": (
        "entropy", _shrank("entropy", 1 / 20, 0.8), _shrank("entropy", 1 / 100, 0.25),
        "Entropy collapsed and quality fell with it",
        "The policy always writes the same, and the same is wrong.",
        _LOWER,
    ),
    "length": (
        "length", _shrank("length", 1 / 3, 0.8), _shrank("length", 1 / 5, 0.25),
        "Completions shrank and quality fell with it",
        "The policy has learned to end at once.",
        "Lower the learning rate; look whether the reward favours short answers.",
    ),
    "truncated": (
        "truncated", _endless(0.9, 0.8), _endless(1.0, 0.25),
        "Completions no longer end",
        "They did at the start; what is cut off is graded as it stands.",
        _LOWER,
    ),
}  # fmt: skip
"""Name -> what it looks at, the first threshold, the second, and what is said."""


def warnings() -> list[Rule]:
    """The first threshold of every guard, as rules that diagnose."""
    return [
        Rule((key,), first, Diagnosis("warning", what, why, remedy), WINDOW)
        for key, first, _, what, why, remedy in GUARDS.values()
    ]


class Watch:
    """The second thresholds, followed along a run.

    Attributes:
        reason: why the run is to be stopped, with the numbers; `None` while it is not.
    """

    def __init__(self) -> None:
        self.streaks = [
            Streak(Rule((key,), second, Diagnosis("error", what, why, remedy), LONG))
            for key, _, second, what, why, remedy in GUARDS.values()
        ]
        self.reason: str | None = None

    def see(self, line: Line, start: Line) -> None:
        self.reason = None
        for each in self.streaks:
            each.see(line, start)
            if each.row >= LONG and self.reason is None:
                self.reason = _said(each, line, start)


def _said(streak: Streak, line: Line, start: Line) -> str:
    [key], diagnosis = streak.rule.keys, streak.rule.diagnosis
    then = start.get(key)
    numbers = [f"{key} {line[key]:.3g}" + ("" if then is None else f", {then:.3g} at the start")]
    for name in ("accuracy", "reward"):
        if _quality(line, start) is not None and line.get(name) is not None:
            numbers.append(f"{name} {line[name]:.3g}, {start.get(name, 0.0):.3g} at the start")
            break
    return (
        f"stopped at step {line['step']} after {streak.row} such steps: {diagnosis.what.lower()} "
        f"({'; '.join(numbers)}). {diagnosis.remedy} guard='warn' goes on all the same"
    )
