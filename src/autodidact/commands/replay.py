"""`autodidact replay DIR`: a step of a run once more."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from autodidact import api
from autodidact.commands.runs import Run
from autodidact.redact import printable


def replay(
    run: Run,
    /,
    *,
    step: Annotated[
        int | None, Parameter(help="which; the first that was kept for its numbers by default")
    ] = None,
) -> None:
    """Compute the loss and gradient of a step again, and say what of it is not finite."""
    from autodidact.faults import say

    found = api.replay(run, step)
    print(f"step {found.step} of {run}")
    for name, value in found.logged.items():
        print(f"{name:<10}{value!r:<24} logged\n{'':<10}{found.again[name]!r:<24} again")
    for place in found.found:
        print(f"not finite: {printable(say(place))}")
    print("reproduced" if found.reproduced else "not reproduced")
    if not found.reproduced:
        sys.exit(1)
