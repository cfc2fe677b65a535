"""Writes `docs/methods.md` from the docstrings of the methods: `python -m docs.build`."""

from __future__ import annotations

import inspect
from pathlib import Path

from autodidact import calls

PAGE = Path(__file__).parent / "methods.md"


def methods_page() -> str:
    """One section for each method: signature and docstring."""
    parts = ["# Methods\n\nMade by `make docs` from the docstrings; do not edit by hand.\n"]
    for name in calls.names("methods"):
        function = calls.method(name)
        signature = str(inspect.signature(function)).partition(" -> ")[0].replace("'", "")
        parts.append(f"\n## {name}\n\n```\n{name}{signature}\n\n{inspect.getdoc(function)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(methods_page(), encoding="utf-8")
    print(f"wrote {PAGE}")
