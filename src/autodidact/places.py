"""Where models come from, and where they go: folders, the hub, devices."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

SHIPPED = {
    "tiny": ("tiny",),
    "tiny_diffusion": ("tiny_diffusion", "last"),
    "tiny_diffusion_early": ("tiny_diffusion", "early"),
}
"""Models that come with the package."""


def device(name: str | None) -> str:
    """The device of that name, a GPU where there is one by default; `ValueError` if missing."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # how torch says that there is none
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}") from error
    return name


def locate(name: str) -> str:
    if name in SHIPPED:
        return str(files("autodidact").joinpath(*SHIPPED[name]))
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.exists() or name.startswith((".", "/", "~")):
            found = "a file" if path.exists() else "nothing there"
            raise ValueError(f"{name!r} is no model folder: {found}")
        return name
    if not (path / "config.json").is_file():
        inside = sorted(entry.name for entry in path.iterdir())[:8]
        raise ValueError(
            f"{name!r} is no model folder: it has no config.json; it holds {inside or 'nothing'}"
        )
    return str(path)
