"""`autodidact train METHOD`: one subcommand a method, its options the factory's signature."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from autodidact import api, calls
from autodidact.calls import Call
from autodidact.commands import FURTHER, signatures
from autodidact.commands.options import (
    SHOWN,
    USUAL_RUN,
    USUAL_SETTING,
    command,
    pick,
    rest,
    run_options,
    setting_options,
)
from autodidact.commands.signatures import Factory, Option
from autodidact.demo import TINY
from autodidact.guards import Guard
from autodidact.interrupt import caught, stopped
from autodidact.settings import RUN

if TYPE_CHECKING:
    from autodidact.console import Console

PREFIX = "run_"
"""Before an option of the run whose name the method uses itself."""

OWN = (
    Option("out", Path | None, None, "the run directory; a fresh one under runs/ by default."),
    Option("quiet", bool, False, "print diagnoses and the result only."),
)

CLUSTER = (
    Option("ray", str | None, None, "train on a Ray cluster: local, auto or host:port."),
    Option("workers", int, 1, "of that cluster that train together."),
    Option("rollout_workers", int, 0, "of that cluster that draw; a multiple of the workers."),
)

app = App(
    name="train",
    help="Train a model by a method. The shipped tiny model on its own task by default.",
    help_epilogue="autodidact train METHOD --help shows the options of a method.",
)


def _about(factory: Factory) -> str:
    """What stands below the options of a method: its paper, its needs, defaults at home."""
    own = {option.name for option in factory.options}
    usual = {name: value for name, value in TINY.items() if name in own or name in RUN}
    said = " ".join(f"--{name} {value}" for name, value in usual.items())
    return (
        f"Source: {factory.line('Source')}.\nNeeds: {factory.line('Needs')}.\n"
        f"Without --model, --data and --task: the tiny model on its own task, with {said}."
    )


METHODS = calls.names("methods")
for _name in METHODS:
    _factory = signatures.method(_name)
    app.command(
        f"{__name__}:{_name}", name=_name, help=_factory.title, help_epilogue=_about(_factory)
    )


@app.default
def resume(
    *,
    resume: Annotated[
        Path | None, Parameter(help="run directory to go on with, from its newest checkpoint")
    ] = None,
    strict: Annotated[
        bool, Parameter(help="refuse where the newest checkpoint is damaged", negative="")
    ] = False,
    allow_change: Annotated[
        bool, Parameter(help="go on with another configuration, model or data", negative="")
    ] = False,
    guard: Annotated[
        Guard | None, Parameter(help="other than the run began with: stop, warn or off")
    ] = None,
    ray: Annotated[
        str | None, Parameter(help="go on with it on a Ray cluster: local, auto or host:port")
    ] = None,
    workers: Annotated[int, Parameter(help="of that cluster that train together")] = 1,
    quiet: Annotated[
        bool, Parameter(help="print diagnoses and the result only", negative="")
    ] = False,
) -> None:
    if resume is None:
        raise ValueError(f"train needs a method, or --resume DIR; methods: {', '.join(METHODS)}")
    how: dict[str, Any] = {"strict": strict, "allow_change": allow_change, "guard": guard}
    how |= {"ray": ray, "workers": workers}
    _watched(quiet, resume, lambda watcher: api.resume(resume, watcher, **how))


def __getattr__(name: str) -> Callable[..., None]:
    """The subcommand of a method, made when it is asked for: there are many methods."""
    if name not in METHODS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _command(signatures.method(name))


def _command(factory: Factory) -> Callable[..., None]:
    own = {option.name for option in factory.options}
    of_run = tuple(
        replace(each, name=PREFIX + each.name) if each.name in own else each
        for each in run_options()
    )
    of_setting = setting_options()
    usual = (
        *pick(of_setting, USUAL_SETTING),
        *pick(of_run, [name for name in USUAL_RUN if name not in own]),
        *OWN,
    )
    # A method with many options shows its first ones.
    room = SHOWN - len(usual)
    names = [option.name for option in usual]
    further = (
        *factory.options[room:], *rest(of_run, names), *rest(of_setting, names), *CLUSTER
    )  # fmt: skip

    def run(**values: Any) -> None:
        arguments = {name: value for name, value in values.items() if name in own}
        others = {k.removeprefix(PREFIX): v for k, v in values.items() if k not in own}
        _train(Call(factory.name, arguments), **others)

    return command(
        factory.name,
        factory.title,
        run,
        (
            (f"Options of {factory.name}", factory.options[:room]),
            ("Model, data and run", usual),
            (FURTHER, further),
        ),
    )


def _train(method: Call, *, out: Path | None = None, quiet: bool = False, **options: Any) -> None:
    from autodidact.run import Directory

    place = Directory(out).path
    _watched(quiet, place, lambda watcher: api.train(method, out=place, watcher=watcher, **options))


def _watched(quiet: bool, place: Path, work: Callable[[Console], Path]) -> None:
    """Do the work with a console watching; then say where the results are."""
    with caught(place):
        from autodidact.commands.live import watcher_of

        watcher = watcher_of(quiet)
        try:
            work(watcher)
        except KeyboardInterrupt:
            print(stopped(place), file=sys.stderr)
            raise
        finally:
            if watcher.bar is not None:
                watcher.bar.stop()
    from autodidact.parallel import leads

    if not leads():
        return
    report = place / "report.html"
    print(f"run directory: {place}")
    print(f"report: {report}" if report.exists() else "no report: nothing was evaluated")
