"""What commands print while they work."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from autodidact.console import Console, rendered
from autodidact.redact import printable
from autodidact.run import Directory

POLL_SECONDS = 1.0
"""Between two looks at what the arms of a comparison have written."""


class Quiet(Console):
    """Prints diagnoses only."""

    def start(self, directory: Directory, call: Mapping[str, Any], examples: list[Any]) -> None: ...
    def step(self, line: Mapping[str, Any], fraction: float) -> None: ...
    def point(self, line: Mapping[str, Any]) -> None: ...


def watcher_of(quiet: bool) -> Console:
    """What watches a training run."""
    return Quiet() if quiet else Console()


def done(folder: Path) -> float:
    """How much of a training run is done, from 0 to 1, by what it has written so far."""
    try:
        call = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, (folder / "metrics.jsonl").stat().st_size - 200_000))
            lines = file.read().splitlines()
    except OSError:  # not begun yet
        return 0.0
    if call["finished"]:
        return 1.0
    budget = call["budget"]
    for line in reversed(lines):
        try:
            spent = json.loads(line)["ledger"][budget["column"]]
        except ValueError:  # a line that is being written, or that was cut above
            continue
        return min(1.0, spent / budget["amount"])
    return 0.0


@contextlib.contextmanager
def comparison(
    out: Path, runs: int, terminal: Terminal | None = None
) -> Iterator[tuple[Callable[..., None], Callable[[str, float], None]]]:
    """Shows how far a comparison of so many runs in `out` is; gives `compare` its `begin` and
    `tell`.

    On a terminal a bar with the time left moves with every step of every arm; elsewhere there is
    a line for each run that has ended.
    """
    terminal = terminal or Terminal()

    def begin(call: Mapping[str, Any], examples: list[Any]) -> None:
        plan = ", ".join(arm["name"] for arm in call["arms"])
        budget, seeds = call["budget"], ", ".join(map(str, call["seeds"]))
        for line in (
            f"{plan}; seeds {seeds}; {budget['amount']:,} {budget['column']} each -> {out}",
            f"{call['model']['path']} ({call['model']['parameters']:,} weights), task "
            f"{call['task']['name']}, {call['run']['rows']} rows a step",
        ):
            terminal.print(printable(line), highlight=False, markup=False)
        for arm in call["arms"]:
            if arm["budget"]:
                line = f"{arm['name']} generates nothing; its budget: {arm['budget']}"
                terminal.print(printable(line), markup=False)
        terminal.print(rendered(examples))

    def tell(text: str, share: float) -> None:
        terminal.print(f"{share:4.0%}  {text}", highlight=False, markup=False)

    if not terminal.is_terminal:
        yield begin, tell
        return
    stop = threading.Event()
    bar = Progress(
        BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
        TextColumn("{task.fields[say]}"), console=terminal, transient=True,
    )  # fmt: skip
    shown = bar.add_task("", total=float(runs), say="")

    def follow() -> None:
        while not stop.wait(POLL_SECONDS):
            shares = [done(path.parent) for path in out.glob("arms/*/seed-*/run.json")]
            ended = sum(share == 1.0 for share in shares)
            say = f"{ended} of {runs} runs ended" if ended < runs else "writing the report"
            bar.update(shown, completed=sum(shares), say=say)

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    with bar:
        thread.start()
        try:
            yield begin, tell
        finally:
            stop.set()
            thread.join()
