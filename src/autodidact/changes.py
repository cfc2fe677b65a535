"""What is other than when a run began: refused, or printed and written down, when it is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autodidact.redact import redacted
from autodidact.strict import strict

if TYPE_CHECKING:
    from autodidact.model import LM
    from autodidact.problem import Task

SAMPLED = 1024
"""Values of each weight tensor that its digest is made of."""

SECTIONS = ("spec", "digests", "versions", "git", "machine")
"""Parts of `run.json` that are compared."""

MEANING = ("spec", "digests")
"""Parts without which the rest of the run is that of another experiment."""

ROUNDING = ("spec.device", "spec.parallel", "spec.gather", "spec.recompute")
"""Of those parts, what changes only how numbers are rounded."""

NAMED = ("method", "model", "task", "run", "budget", "seeds", "spec", "digests")
"""Parts of `run.json` that say what is run."""

FREE = (
    "spec.run.save_every",
    "spec.run.guard",
    "spec.run.max_skips",
    "spec.track",
    "spec.states",
    "machine.cores",
)
"""What no number of a run depends on."""


@dataclass(frozen=True)
class Change:
    """Something that is not as it was.

    Attributes:
        what: its name in `run.json`, with dots.
        before, now: its values; `None` where there was or is none.
    """

    what: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what}: {json.dumps(self.before)} -> {json.dumps(self.now)}"

    @property
    def free(self) -> bool:
        """Whether every number stays what it was, to the last bit."""
        return self.what in FREE

    @property
    def refused(self) -> bool:
        """Whether what follows would be another experiment under the same name."""
        plain = self.free or self.what in ROUNDING
        return self.what.partition(".")[0] in MEANING and not plain


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The differences in the sections that both have."""
    found, before, now = [], plain(before), plain(now)
    for section in SECTIONS:
        if section in before and section in now:
            one, two = _flat(section, before[section]), _flat(section, now[section])
            found += [
                Change(name, one.get(name), two.get(name))
                for name in dict.fromkeys((*one, *two))
                if one.get(name) != two.get(name)
            ]
    return found


def permit(found: list[Change], place: object) -> None:
    """Raise `ValueError` with every change that makes another experiment of the run at a place."""
    lines = [f"\n  {change}" for change in found if change.refused]
    if lines:
        raise ValueError(
            f"{place} was begun with something else than it would go on with:{''.join(lines)}\n"
            "undo that, or give --allow-change"
        )


def tell(found: list[Change], warn: Callable[[str], None]) -> None:
    """A line for each change, and one about what that means."""
    for change in found:
        warn(f"not as when the run began: {change}")
    if not all(change.free for change in found):
        warn("the rest of the run need not equal an undisturbed one to the last bit")


def went_on(call: dict[str, Any], now: Mapping[str, Any], found: list[Change], step: int) -> None:
    """Write into what `run.json` holds that the run goes on after a step.

    What runs from here on takes the place of what ran before; versions and machine stay those of
    the beginning. `exact` is false where the rest need not equal the undisturbed run.
    """
    if any(change.refused for change in found):
        call |= {name: now[name] for name in NAMED}
    entry = {
        "step": step,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "changes": [str(change) for change in found],
        "exact": all(change.free for change in found),
    }
    call["resumed"] = [*call.get("resumed", ()), entry]


def plain(value: Any) -> Any:
    """The value as a JSON file of a run gives it back."""
    return json.loads(json.dumps(strict(redacted(value)), default=str))


def digests(lm: LM, task: Task) -> dict[str, Any]:
    """SHA-256 of what names of models and files do not pin down.

    Those of weights are made of at most 2 * SAMPLED evenly spaced values of each tensor: other
    weights are noticed, a single edited value need not be.
    """
    config = lm.base.config.to_diff_dict()
    for name in ("transformers_version", "_name_or_path"):
        config.pop(name, None)
    return {
        "config": _digest(config),
        "weights": _of_weights(lm),
        "problems": _digest([[_about(p) for p in split] for split in (task.train, task.test)]),
        "rewards": dict(task.code),
    }


def _of_weights(lm: LM) -> str:
    import torch

    from autodidact.head import whole

    found = hashlib.sha256()
    for name, weight in lm.model.named_parameters():
        values = whole(weight.detach()).flatten()[:: max(1, weight.numel() // SAMPLED)].clone()
        found.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        found.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _about(problem: Any) -> list[Any]:
    """What a problem holds, but for where it stands: a file may move."""
    meta = {key: value for key, value in problem.meta.items() if not key.startswith("_")}
    return [problem.question, problem.solution, problem.answer, meta]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Nested mappings as one, their names joined by dots."""
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, inside in value.items():
        found |= _flat(f"{name}.{key}", inside)
    return found
