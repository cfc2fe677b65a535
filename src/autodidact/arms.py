"""The arms of a comparison, from texts such as `opsd(divergence=reverse, lr=1e-4)`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autodidact import calls
from autodidact.calls import Call
from autodidact.guards import Guard
from autodidact.names import as_part, nearest
from autodidact.spec import Spec

OF_RUN = ("lr", "schedule", "warmup", "weight_decay", "grad_clip", "rows", "micro_rows")
"""Options of a run in which arms may differ; budget, seeds and evaluation are shared."""


@dataclass(frozen=True)
class Arm:
    """One method of a comparison.

    Attributes:
        name: its place in tables and its folder; unique.
        spec: how it is run, but for the seed.
        draws: whether it spends generated tokens at all.
    """

    name: str
    spec: Spec
    draws: bool


def arms_of(texts: Sequence[str], common: Spec, shared: Mapping[str, Any]) -> list[Arm]:
    """Arms from texts such as `grpo` or `opsd(divergence=reverse, lr=1e-4)`.

    Options of the method's signature go to the method, those of `OF_RUN` to the run of that arm.
    The latter are part of an arm's name only where two arms differ by nothing else.

    Args:
        shared: options for every method that has them, such as `length`.

    Raises:
        ValueError: an unknown method or option, or the same arm twice.
    """
    parsed = [calls.parse(text) for text in texts]
    plain = [name_of(call, without=OF_RUN) for call in parsed]
    arms: list[Arm] = []
    for text, call, short in zip(texts, parsed, plain, strict=True):
        factory = calls.method(call.name)
        takes = list(inspect.signature(factory).parameters)
        for key in call.arguments:
            if key not in takes and key not in OF_RUN:
                raise ValueError(
                    f"{call.name} has no option {key!r}; its options: "
                    f"{', '.join(takes) or 'none'}; options of its run: {', '.join(OF_RUN)}"
                    + nearest(key, [*takes, *OF_RUN])
                )
        own = {key: value for key, value in call.arguments.items() if key in takes}
        of_run = {key: value for key, value in call.arguments.items() if key not in takes}
        given = {key: value for key, value in shared.items() if key in takes}
        whole = Call(call.name, {**given, **own})
        rollout = factory(**whole.arguments).rollout
        # A collapse is a result of a comparison, and no reason to stop it.
        guard: Guard = "warn" if common.run.guard == "stop" else common.run.guard
        run = replace(common.run, guard=guard, **of_run)
        rollout.problems(run.rows)
        name = short if plain.count(short) == 1 else name_of(call)
        if name in (arm.name for arm in arms):
            raise ValueError(f"the arm {text!r} is there twice")
        arms.append(Arm(name, replace(common, method=whole, run=run), rollout.draws))
    return arms


def name_of(call: Call, without: Sequence[str] = ()) -> str:
    """A call as a name for tables and folders, such as `opsd-reverse` or `grpo-n-4`.

    A value that is a word speaks for itself.
    """
    parts = [call.name]
    for key, value in call.arguments.items():
        if key not in without:
            parts.append(value if isinstance(value, str) else f"{key}-{value}")
    # A sign would be lost among the hyphens.
    text = re.sub(r"(?<=[^A-Za-z0-9])-(?=[0-9.])", "minus-", "-".join(parts))
    return as_part(text)
