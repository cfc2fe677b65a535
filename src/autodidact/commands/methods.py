"""`autodidact methods [NAME]`: what there is, from the docstrings."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from autodidact import calls
from autodidact.commands import signatures
from autodidact.names import choose


def methods(
    name: Annotated[
        str | None, Parameter(help="print the docstring and the signature of this one")
    ] = None,
    /,
) -> None:
    """What methods there are, each with its paper and what it needs; or all about one."""
    if name is not None:
        factory = signatures.method(choose("method", name, calls.names("methods")))
        print(f"{factory.signature}\n\n{factory.doc}")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True, style="bold")
    for column in ("what it is", "paper", "needs"):
        table.add_column(column)
    for factory in map(signatures.method, calls.names("methods")):
        cells = (factory.title, factory.line("Source"), factory.line("Needs").replace("`", ""))
        table.add_row(factory.name, *map(Text, cells))
    Console().print(table)
