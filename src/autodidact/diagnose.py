"""Diagnoses: a run that teaches nothing says so, says why, and names the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from autodidact import guards
from autodidact.rules import WINDOW, Diagnosis, Line, Rule, Streak

ZERO = 1e-7
"""A mean signal below this is rounding."""


def _rule(level, keys, holds, what, why, remedy, window=WINDOW) -> Rule:
    return Rule(keys, lambda x, _: holds(x), Diagnosis(level, what, why, remedy), window)


RULES = (
    _rule(
        "error", ("truncated",), lambda x: x["truncated"] == 1,
        "Every completion was cut off before its end token",
        "Nothing that is graded is finished, and the end token is never taught.",
        "Raise length, or check that the chat template ends with the tokenizer's end token.",
    ),
    _rule(
        "warning", ("truncated",), lambda x: 0.5 <= x["truncated"] < 1,
        "More than half of the completions were cut off",
        "Their final answers are missing, so their rewards are those of unfinished work.",
        "Raise length.",
    ),
    _rule(
        "error", ("spread", "signal"),
        lambda x: x["spread"] == 0 and x["signal"] < ZERO and x.get("unscorable") != 1,
        "Within every group all rewards were equal",
        "A group without spread has advantage zero: nothing is learned.",
        "Take problems of other difficulty, raise n or the temperature, or use a smoother reward.",
    ),
    _rule(
        "error", ("tv",), lambda x: x["tv"] < ZERO,
        "The teacher said exactly what the student said",
        "The divergence between equal laws is zero, and so is its gradient.",
        "Give the teacher something the student does not read: a solution, a hint, other weights.",
    ),
    _rule(
        "error", ("signal",),
        lambda x: x["signal"] < ZERO and x.get("spread") != 0 and x.get("tv", 1) >= ZERO,
        "The signal was zero at every token",
        "Whatever the method tells a token, it told nothing.",
        "Look at samples.jsonl and at the token view: is there anything to learn from?",
    ),
    _rule(
        "error", ("empty",), lambda x: x["empty"] == 1,
        "No row was left to learn from",
        "Every problem was dropped: none had a verified answer, a pair or a spread of rewards.",
        "Raise n, take easier problems, or lower the reward that an answer must earn.",
    ),
    _rule(
        "error", ("unscorable", "signal"), lambda x: x["unscorable"] == 1 and x["signal"] < ZERO,
        "No completion could be scored",
        "The reward returned nothing, or the problems have no answers.",
        "Check the answer column, or the reward function on one completion by hand.",
    ),
    _rule(
        "warning", ("unscorable", "spread"), lambda x: 0.2 <= x["unscorable"] < 1,
        "More than a fifth of the completions could not be scored",
        "They carry no advantage and shrink their groups.",
        "Look at samples.jsonl for what they have in common.",
    ),
    _rule(
        "warning", ("mismatch_max",),
        lambda x: x["mismatch_max"] > 0.1 and not x.get("staleness"),
        "Sampler and trainer disagree about the sampled tokens by more than 0.1 nats",
        "Ratios and advantages are then those of another policy.",
        "Sample in the trainer's precision, or weigh the tokens by correct='token'.",
    ),
    _rule(
        "warning", ("ess", "staleness"), lambda x: x["staleness"] > 0 and x["ess"] < 0.5,
        "The weights had moved far from those that drew the tokens",
        "Importance weights then rest on less than half of the tokens, or are cut.",
        "Lower staleness or the learning rate.",
    ),
    _rule(
        "error", ("skipped",), lambda x: x["skipped"] == 1,
        "Loss or gradient was not finite, and the update was skipped",
        "The weights were left as they were.",
        "Lower the learning rate; look for extreme rewards.", 1,
    ),
)  # fmt: skip


class Doctor:
    """Follows a run line by line, and knows at any time what is wrong with it.

    Attributes:
        reason: why a guard stops the run, see `guards`; `None` while none does.
    """

    def __init__(self, run: Mapping[str, Any], lines: Iterable[Line] = ()):
        """Args: run: what `run.json` holds. lines: those that are there already."""
        self.begun = at_start(run)
        guarded = run.get("run", {}).get("guard") != "off"
        rules = (*RULES, *(guards.warnings() if guarded else ()))
        self.streaks = [Streak(rule) for rule in rules]
        self.watch = guards.Watch()
        self.start: dict[str, Any] = {}
        words = run.get("model", {}).get("words")
        self.uniform = None if words is None else math.log(words)
        for line in lines:
            self.see(line)

    def see(self, line: Line) -> None:
        """Take the next line of `metrics.jsonl`; only steps count."""
        if line.get("kind") != "step":
            return
        if not self.start and not line.get("empty"):
            self.start = {**line, "uniform": self.uniform}
        for each in self.streaks:
            each.see(line, self.start)
        self.watch.see(line, self.start)

    @property
    def reason(self) -> str | None:
        return self.watch.reason

    def found(self, finished: bool) -> list[Diagnosis]:
        """What is wrong so far, each thing once."""
        said = [(each.rule.diagnosis, each.begun(finished)) for each in self.streaks]
        return self.begun + [replace(what, step=at) for what, at in said if at is not None]


def diagnose(
    lines: Iterable[Line], run: Mapping[str, Any], finished: bool = True
) -> list[Diagnosis]:
    """What a run's `metrics.jsonl` lines and `run.json` say is wrong, each thing once.

    A rule needs its window of steps; a finished run that is shorter needs all of its steps.
    """
    return Doctor(run, lines).found(finished)


def at_start(run: Mapping[str, Any]) -> list[Diagnosis]:
    """What can be seen before the first step."""
    model, found = run.get("model", {}), []
    if model.get("end") is not None and model.get("end") == model.get("pad"):
        found.append(
            Diagnosis(
                "warning",
                "The end token is also the padding token",
                "Code that finds padding by its id then drops the end token. Here padding is a "
                "mask, so training is right; other tools may not be.",
                "Give the tokenizer a padding token of its own before you publish the model.",
            )
        )
    if model.get("template") is False:
        found.append(
            Diagnosis(
                "warning",
                "The tokenizer has no chat template",
                "Prompts are the plain text of the question, a line each.",
                "Use an instruction-tuned model, or give the tokenizer a template.",
            )
        )
    return found
