"""What a run prints: a live bar on a terminal, a few quiet lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console as Terminal
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from autodidact.redact import printable
from autodidact.run import Directory
from autodidact.session import Watcher

QUIET_SECONDS = 15.0
"""Between two lines about steps where there is no terminal."""


class Console(Watcher):
    """Prints one example, the progress, the evaluations and the diagnoses of a run."""

    def __init__(self, terminal: Terminal | None = None, *, examples: bool = True):
        self.terminal = terminal or Terminal()
        self.examples = examples
        self.bar: Progress | None = None
        self.last = 0.0

    def start(self, directory: Directory, call: Mapping[str, Any], examples: list[Any]) -> None:
        model, task = call["model"], call["task"]
        method = escape(printable(call["method"]["name"]))
        self.terminal.print(
            f"[bold]{method}[/] on {escape(printable(model['path']))} "
            f"({model['trained']:,} of {model['parameters']:,} weights trained), "
            f"task {escape(printable(task['name']))}, seed {call['seeds'][0]}, "
            f"{call['budget']['amount']:,} {call['budget']['column']} -> "
            f"{escape(printable(directory.path))}"
        )
        if self.examples and examples:
            self.terminal.print(rendered(examples))
        if self.terminal.is_terminal:
            self.bar = Progress(
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[say]}"),
                TimeRemainingColumn(),
                console=self.terminal,
                transient=True,
            )
            self.task = self.bar.add_task("", total=1.0, say="")
            self.bar.start()

    def step(self, line: Mapping[str, Any], fraction: float) -> None:
        say = says(line)
        if self.bar is not None:
            self.bar.update(self.task, completed=fraction, say=say)
        elif time.monotonic() - self.last > QUIET_SECONDS:
            self.last = time.monotonic()
            self.terminal.print(f"{fraction:4.0%}  {say}", highlight=False)

    def point(self, line: Mapping[str, Any]) -> None:
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in line["metrics"].items())
        self.terminal.print(
            f"[bold]evaluated[/] after {line['step']} steps: {numbers}", highlight=False
        )

    def diagnosis(self, found: Any) -> None:
        color = "red" if found.level == "error" else "yellow"
        said = escape(printable(found))
        self.terminal.print(f"[{color}]{found.level}[/] {said}", highlight=False)

    def end(self, directory: Directory) -> None:
        if self.bar is not None:
            self.bar.stop()


def says(line: Mapping[str, Any]) -> str:
    """One line about a step: speed, loss, reward."""
    ledger = line["ledger"]
    parts = [f"step {line['step']}"]
    if line.get("loss") is not None:
        parts.append(f"loss {line['loss']:.4g}")
    for name in ("reward", "accuracy", "length"):
        if line.get(name) is not None:
            parts.append(f"{name} {line[name]:.3g}")
    speed = ledger["total"] / max(ledger["seconds"], 1e-9)
    return "  ".join([*parts, f"{speed:,.0f} tokens/s"])


def rendered(examples: list[Any]) -> Panel:
    """What each role reads for one problem; the tokens that are trained stand out.

    They stand in brackets too, for where there are no colours.
    """
    text = Text()
    for shown in examples:
        text.append(f"{shown.role} reads\n", style="bold")
        for piece, trained in shown.pieces:
            if trained:
                text.append(f"\u27e6{printable(piece)}\u27e7", style="black on green")
            else:
                text.append(printable(piece))
        text.append("\n")
    return Panel(
        text, title="one example; trained tokens in \u27e6brackets\u27e7", title_align="left"
    )
