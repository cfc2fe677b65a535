"""The type checker of the import hook in `conftest.py`: tensors only.

Everything else keeps its own errors: a mistyped `Literal` is the library's to refuse.
"""

from __future__ import annotations

from beartype import beartype


def check(function):
    """`function`, which checks the annotations that speak of tensors."""
    hints = {k: v for k, v in function.__annotations__.items() if "Tensor" in repr(v)}
    function.__annotations__ = hints
    return beartype(function)
