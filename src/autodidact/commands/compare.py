"""`autodidact compare ARM [ARM ...]`: several methods, several seeds, one budget."""

from __future__ import annotations

import sys
from inspect import Parameter as Positional
from pathlib import Path
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
    from autodidact.commands.live import comparison
    from autodidact.commands.runs import print_tables
    from autodidact.run import Directory

    own = {name: value for name, value in values.items() if name in NAMES}
    demo = own.pop("demo", False)
    given = {**settings(**own)}
    others = {name: value for name, value in values.items() if name not in NAMES}
    if demo:
        said = {name: given[name] for name in own}
        given = {**given, **DEMO, **said, **others}
        arms = tuple(map(tuned, arms)) if "lr" not in others else arms
    else:
        given |= others
    if others.get("trust_remote_code"):
        from autodidact.commands.train import warn_of_code

        warn_of_code(given.get("model", api.MODEL))
    if not arms:
        raise ValueError("compare needs arms, such as: autodidact compare opsd grpo sft rft --demo")
    place = given["out"] = Directory(given["out"]).path
    try:
        with comparison(place, len(arms) * len(given["seeds"])) as (begin, tell):
            api.compare(arms, begin=begin, tell=tell, **given)
    except KeyboardInterrupt:
        print(
            f"stopped; runs that had ended are in {place / 'arms'}; a comparison cannot be resumed",
            file=sys.stderr,
        )
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
