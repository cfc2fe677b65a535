"""Commands that let a model speak: `evaluate` and `sample`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from autodidact import api
from autodidact.calls import Call
from autodidact.commands.options import Option, command, function_options, pick, setting_options
from autodidact.run import Directory
from autodidact.spec import Spec, make_task

if TYPE_CHECKING:
    from autodidact.models import Models

WHERE = ("model", "data", "task", "columns", "test", "precision", "thinking", "device",
         "trust_remote_code")  # fmt: skip


def _spec(run: Path | None, options: dict[str, Any]) -> tuple[Spec, Path | None]:
    """The spec of a run with the options said, or of the options alone; and the checkpoint."""
    if run is None:
        return api.specify(Call(""), options), None
    ...
