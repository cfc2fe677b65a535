"""`autodidact compare ARM [ARM ...]`: several methods, several seeds, one budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter as Positional
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from cyclopts import App, Parameter

from autodidact import api
from autodidact.commands import FURTHER
from autodidact.commands.options import (
    USUAL_SETTING,
    command,
    function_options,
    pick,
    rest,
    run_options,
    setting_options,
)
from autodidact.demo import DEMO, tuned
from autodidact.interrupt import caught


def settings(
    demo: bool = False,
    budget: float | None = None,
    column: str = "generated",
    seeds: str = "0,1,2",
    target: float | None = None,
    workers: int = 1,
    out: Path | None = None,
    length: int | None = None,
    n: int | None = None,
    temperature: float | None = None,
    ray: str | None = None,
    arm_cpus: float = 1.0,
    arm_gpus: float = 0.0,
    resume: Path | None = None,
) -> dict[str, Any]:
    """The options of a comparison itself, as `api.compare` takes them.

    Args:
        demo: the shipped tiny model on its own task, minutes on two cores; what else is said
            counts instead.
        budget: how much of a ledger column each arm may spend.
        column: that column: generated, student_backward, total, optimizer_steps, seconds ...
        seeds: of each arm, with commas.
        target: accuracy of "tokens to reach"; half way to the best arm by default.
        workers: arms that run at the same time.
        out: the run directory; a fresh one under runs/ by default.
        length: at most this many tokens a completion, for every method that draws.
        n: completions of each problem, for every method that draws.
        temperature: of sampling, for every method that draws.
        ray: run arms on a Ray cluster instead: local, auto or host:port.
        arm_cpus: processors of the cluster for each arm, and threads it computes with.
        arm_gpus: GPUs of the cluster for each arm; without one it computes on processors.
        resume: run directory of a comparison to go on with; stands without arms.
    """
    return {
        "budget": budget,
        "column": column,
        "seeds": numbers(seeds),
        "target": target,
        "workers": workers,
        "out": out,
        "length": length,
        "n": n,
        "temperature": temperature,
        "ray": ray,
        "arm_cpus": arm_cpus,
        "arm_gpus": arm_gpus,
        "resume": resume,
    }


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"seeds {text!r} are no whole numbers with commas, such as 0,1,2"
        ) from error


OWN = function_options(settings)
NAMES = [option.name for option in OWN]
OF_RUN = tuple(option for option in run_options() if option.name not in (*NAMES, "seed", "steps"))
USUAL = (*pick(setting_options(), USUAL_SETTING), *pick(OF_RUN, ("lr", "rows")))


def run(*arms: str, **values: Any) -> None:
    from autodidact.run import Directory

    own = {name: value for name, value in values.items() if name in NAMES}
    demo = own.pop("demo", False)
    given = {**settings(**own)}
    if given["resume"] is not None:
        _go_on(arms, values)
        return
    others = {name: value for name, value in values.items() if name not in NAMES}
    if demo:
        said = {name: given[name] for name in own}
        given = {**given, **DEMO, **said, **others}
        arms = tuple(map(tuned, arms)) if "lr" not in others else arms
    else:
        given |= others
    if not arms:
        raise ValueError("compare needs arms, such as: autodidact compare opsd grpo sft rft --demo")
    place = given["out"] = Directory(given["out"]).path
    _shown(
        place,
        len(arms) * len(given["seeds"]),
        lambda begin, tell: api.compare(arms, begin=begin, tell=tell, **given),
    )


WHERE = ("resume", "workers", "ray", "arm_cpus", "arm_gpus")
"""Options that say where a comparison is computed, not what."""


def _go_on(arms: Sequence[str], values: Mapping[str, Any]) -> None:
    more = [*arms, *(f"--{name}" for name in values if name not in WHERE)]
    if more:
        raise ValueError(
            f"{', '.join(more)} cannot be given with --resume: a comparison is resumed as it was "
            f"begun; allowed: {', '.join(WHERE[1:])}"
        )
    from autodidact.compare import begun

    place = values["resume"]
    _, call = begun(place)
    runs = len(call["arms"]) * len(call["seeds"])
    _shown(place, runs, lambda begin, tell: api.compare(begin=begin, tell=tell, **values))


def _shown(place: Path, runs: int, work: Callable[[Any, Any], Path]) -> None:
    """Compare with the progress shown, then print the tables."""
    from autodidact.commands.live import comparison
    from autodidact.commands.runs import print_tables

    with caught(place):
        try:
            with comparison(place, runs) as (begin, tell):
                work(begin, tell)
        except BaseException:
            if (place / "run.json").is_file():
                say = f"stopped; go on with: autodidact compare --resume {quote(str(place))}"
                print(say, file=sys.stderr)
            raise
    print_tables(place)


app = App(
    name="compare",
    help_epilogue='autodidact compare opsd "opsd(divergence=reverse, lr=1e-4)" grpo --budget 40000',
)
app.default(
    command(
        "compare",
        "",
        run,
        (("Comparison", OWN), ("Model, data and run", USUAL),
         (FURTHER, (*rest(OF_RUN, [o.name for o in USUAL]),
                    *rest(setting_options(), [o.name for o in USUAL])))),
        first=(
            Positional(
                "arms",
                Positional.VAR_POSITIONAL,
                annotation=Annotated[str, Parameter(help="methods, perhaps with options")],
            ),
        ),
    )
)  # fmt: skip
