"""The arms of a comparison, from texts such as `opsd(divergence=reverse, lr=1e-4)`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from autodidact import calls
from autodidact.calls import Call
from autodidact.run import Run
from autodidact.spec import Spec


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

    Options of the method's signature go to the method, fields of `Run` to the run of that arm.

    Args:
        shared: options for every method that has them, such as `length`.

    Raises:
        ValueError: an unknown method or option, or the same arm twice.
    """
    run_fields = {field.name for field in fields(Run)}
    arms: list[Arm] = []
    for text in texts:
        call = calls.parse(text)
        factory = calls.method(call.name)
        own = {k: v for k, v in call.arguments.items() if k not in run_fields or _has(factory, k)}
        of_run = {key: value for key, value in call.arguments.items() if key not in own}
        calls.bind(factory, Call(call.name, own))
        given = {key: value for key, value in shared.items() if _has(factory, key)}
        whole = Call(call.name, {**given, **own})
        made = factory(**whole.arguments)
        run = replace(common.run, **of_run)
        made.rollout.problems(run.rows)
        name = re.sub(r"[^A-Za-z0-9.]+", "-", str(call)).strip("-")
        if name in (arm.name for arm in arms):
            raise ValueError(f"the arm {text!r} is there twice")
        spec = replace(common, method=whole, run=run)
        arms.append(Arm(name, spec, made.rollout.draws))
    return arms


def _has(factory: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(factory).parameters
