"""What every benchmark prints and writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from autodidact.run import describe_machine, describe_versions


@dataclass(frozen=True)
class Row:
    """One number of ours beside one of a peer. `ratio` is ours / peer, `None` over zero."""

    metric: str
    ours: float
    peer: float
    peer_name: str
    ratio: float | None = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "ratio", self.ours / self.peer if self.peer else None)


def machine(*packages: str) -> str:
    """One line: the machine and the versions of what ran, with those of the peers' packages."""
    found = describe_machine()
    versions = describe_versions() | {name: metadata.version(name) for name in packages}
    hardware = found["gpu"] or f"{found['processor']}, {found['cores']} cores"
    return f"{hardware}, {found['threads']} threads; " + ", ".join(
        f"{name} {version}" for name, version in versions.items()
    )


def show(title: str, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "ours", "peer", "ours / peer", "who the peer is", title=title)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.4g}"
        table.add_row(row.metric, f"{row.ours:.6g}", f"{row.peer:.6g}", ratio, row.peer_name)
    Console(width=None if Console().is_terminal else 120).print(table)


def write(path: Path, rows: Sequence[Row]) -> None:
    """A JSON list with an object for each row."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
