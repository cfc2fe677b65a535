"""`autodidact methods [NAME]`: what there is, from the docstrings."""

from __future__ import annotations

import re
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
    """What methods there are, where they are from and what they need; or all about one."""
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
    table.add_column("what it is", ratio=1)
    table.add_column("arXiv", no_wrap=True)
    table.add_column("needs")
    for factory in map(signatures.method, calls.names("methods")):
        paper = re.search(r"[0-9]{4}\.[0-9]{5}", factory.line("Source"))
        # The first of several ways, without its explanation.
        needs = ", ".join(re.findall("`(.*?)`", factory.line("Needs").partition(";")[0]))
        table.add_row(
            factory.name, Text(factory.title.rstrip(".")), paper[0] if paper else "", Text(needs)
        )
    Console().print(table)
