"""Commands that look at a run directory: `report`, `show`, `doctor`. None of them needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from autodidact.api import opened
from autodidact.names import part
from autodidact.redact import printable
from autodidact.run import Directory

Run = Annotated[Path, Parameter(help="a run directory")]


def say(text: str) -> None:
    """Print a line; what it quotes of a run cannot steer the terminal."""
    print(printable(text))


def report(directory: Run, /) -> None:
    """Write the HTML report of a run, and print its tables."""
    from autodidact.report import report as write

    opened(directory)
    write(directory)
    print_tables(directory)


def print_tables(directory: Path) -> None:
    """The tables of a run, and where its report is."""
    from rich.console import Console

    from autodidact.report import summarise, tables

    terminal = Console()
    for table in tables(summarise(directory)):
        terminal.print(table)
    print(f"run directory: {directory}")
    print(f"report: {directory / 'report.html'}")


def show(run: Run, /) -> None:
    """A summary of a run: what was run, how far it is, what it reached and what it spent."""
    call = opened(run)
    say(f"{run}: {call['kind']}, started {call['started']}, {_ended(call)}")
    say(f"model   {call['model']['path']} ({call['model']['parameters']:,} weights)")
    say(f"task    {_called(call['task']['name'], call['task']['arguments'])}")
    say(f"budget  {call['budget']['amount']:,} {call['budget']['column']}")
    for name, arguments, folder, seed in trained(run, call):
        say(f"\n{_called(name, arguments)}, seed {seed}")
        for line in _reached(folder):
            say(f"  {line}")
    if (run / "diagnoses.json").exists():
        count = len(Directory(run, resume=True).read("diagnoses.json"))
        print(f"\ndiagnoses: {count}; autodidact doctor {run}")
    if (run / "report.html").exists():
        print(f"report: {run / 'report.html'}")


def doctor(run: Run, /) -> None:
    """What would keep a run from teaching anything, why, and what to do about it."""
    from rich.console import Console
    from rich.markup import escape

    from autodidact.diagnose import diagnose

    call, terminal, count = opened(run), Console(), 0
    for name, _, folder, seed in trained(run, call):
        if not (folder / "run.json").exists():
            continue
        own = opened(folder)
        lines = Directory(folder, resume=True).lines("metrics.jsonl")
        for found in diagnose(lines, own, finished=own["finished"] is not None):
            count += 1
            where = f"{name}, seed {seed}, " if call["kind"] == "compare" else ""
            at = "at the start" if found.step is None else f"from step {found.step}"
            color = "red" if found.level == "error" else "yellow"
            what = escape(printable(f"{where}{at}: {found.what}."))
            terminal.print(f"[{color}]{found.level}[/] {what}")
            for head, said in (("why", found.why), ("remedy", found.remedy)):
                line = printable(f"  {head:<7} {said}")
                terminal.print(line, markup=False, highlight=False)
    if not count:
        print(f"{run}: nothing is wrong, as far as its numbers tell")


def trained(
    run: Path, call: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Path, int]]:
    """(name, arguments, folder, seed) of every training in a run directory."""
    if call["kind"] == "train":
        yield call["method"]["name"], call["method"]["arguments"], run, call["seeds"][0]
        return
    for arm in call["arms"]:
        for seed in call["seeds"]:
            place = run / "arms" / part("arm", arm["name"]) / f"seed-{int(seed)}"
            yield arm["name"], arm["arguments"], place, seed


def _reached(folder: Path) -> Iterator[str]:
    """What the last evaluation and the last step of a training say."""
    if not (folder / "run.json").exists():
        yield "not begun"
        return
    lines = list(Directory(folder, resume=True).lines("metrics.jsonl"))
    evaluations = [line for line in lines if line["kind"] == "eval"]
    if evaluations:
        first, last = evaluations[0]["metrics"], evaluations[-1]["metrics"]
        yield "  ".join(f"{name} {first[name]:.3f} -> {last[name]:.3f}" for name in last)
    if lines:
        spent = lines[-1]["ledger"]
        names = ("optimizer_steps", "generated", "student_backward", "total")
        counts = ", ".join(f"{spent[name]:,} {name}" for name in names)
        yield f"spent: {counts}, {spent['seconds']:.0f} seconds"


def _ended(call: Mapping[str, Any]) -> str:
    return f"finished {call['finished']}" if call["finished"] else "not finished"


def _called(name: str, arguments: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name
