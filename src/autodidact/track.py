"""Trackers: the metrics of a run sent to tensorboard, trackio or wandb as well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autodidact.names import choose
from autodidact.redact import redacted

TRACKERS = ("tensorboard", "trackio", "wandb")
LOCAL = {"space_id": None, "private": True, "embed": False}
"""Of trackio: no Space of the hub, a private one where its own settings name one, and no dashboard,
which a notebook in a cloud would share publicly."""
Tracker = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def trackers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any]
) -> Iterator[list[Tracker]]:
    """One tracker for each name, closed at the end.

    Raises:
        ValueError: an unknown name, or a package that is not installed.
    """
    for name in names:
        check(name)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_OPEN[name](folder, config)) for name in names]


def check(name: str) -> None:
    """Refuse a tracker that is unknown or whose package is not installed."""
    from importlib.util import find_spec

    choose("tracker", name, TRACKERS)
    if find_spec(name) is None:
        raise ValueError(f"tracker {name!r} needs its package: pip install 'autodidact[track]'")


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics line under names that keep training and evaluation apart.

    Lines of other kinds, such as faults, are not about numbers that a curve could show.
    """
    kind = {"step": "train", "eval": "eval"}.get(line["kind"])
    if kind is None:
        return {}
    own = {f"logged/{name}": value for name, value in line.get("logged", {}).items()}
    values = {**line, **line.get("metrics", {}), **own}
    found = {
        f"{kind}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
    return found | {f"ledger/{name}": float(value) for name, value in line["ledger"].items()}


@contextlib.contextmanager
def _tensorboard(folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def send(line: Mapping[str, Any]) -> None:
            for name, value in numbers(line).items():
                writer.add_scalar(name, value, line["step"])

        yield send


@contextlib.contextmanager
def _remote(
    package: str, folder: Path, config: Mapping[str, Any], options: Mapping[str, Any]
) -> Iterator[Tracker]:
    import importlib

    module = importlib.import_module(package)
    module.init(project="autodidact", name=folder.name, config=redacted(config), **options)

    def send(line: Mapping[str, Any]) -> None:
        if found := numbers(line):
            module.log(found, step=line["step"])

    try:
        yield send
    finally:
        module.finish()


_OPEN = {
    "tensorboard": _tensorboard,
    "trackio": lambda folder, config: _remote("trackio", folder, config, LOCAL),
    "wandb": lambda folder, config: _remote("wandb", folder, config, {}),
}
