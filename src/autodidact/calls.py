"""Calls by name: `opsd(divergence=reverse, n=2)` on a command line, in a run file, in a table.

There is no registry: a method is the function of the same name in the module of that name in
`autodidact.methods`, a task one in `autodidact.tasks`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from autodidact.names import choose, nearest


@dataclass(frozen=True)
class Call:
    """A function's name and its keyword arguments, all of them plain JSON values."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}({inside})" if inside else self.name


def parse(text: str) -> Call:
    """`name` or `name(key=value, ...)`; values are literals, and bare words are strings.

    Raises `ValueError` where the text is no such call. Nothing in it is ever executed.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text!r} is no call such as opsd(divergence=reverse)") from error
    if isinstance(tree, ast.Name):
        return Call(tree.id)
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
        raise ValueError(f"{text!r} is no call such as opsd(divergence=reverse)")
    return Call(tree.func.id, {str(word.arg): _literal(word.value, text) for word in tree.keywords})


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id.lower(), node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:  # a TypeError for {[]: 1}
        raise ValueError(
            f"{ast.unparse(node)!r} in {text!r} is neither a literal nor a bare word"
        ) from error


def names(package: str) -> list[str]:
    """The names of the modules of a package of the library, such as "methods"."""
    found = importlib.import_module(f"autodidact.{package}")
    return sorted(each.name for each in pkgutil.iter_modules(found.__path__))


def method(name: str) -> Callable[..., Any]:
    """The factory of that name; an unknown one is a `ValueError` with the nearest."""
    choose("method", name, names("methods"))
    return getattr(importlib.import_module(f"autodidact.methods.{name}"), name)


def task(name: str) -> Callable[..., Any]:
    """The task factory of that name; an unknown one is a `ValueError` with the nearest."""
    choose("task", name, TASKS)
    return getattr(importlib.import_module(f"autodidact.tasks.{TASKS[name]}"), name)


TASKS = {
    "choices": "choices",
    "countdown": "countdown",
    "d1_gsm8k": "d1",
    "d1_math": "d1",
    "from_file": "files",
    "modular_sum": "modular_sum",
    "random_calculation": "random_calculation",
    "reverse_text": "reverse_text",
    "sudoku": "sudoku",
    "tiny_calculation": "random_calculation",
    "tiny_countdown": "countdown",
    "tiny_sudoku": "sudoku",
}


def engine(name: str) -> Callable[..., Any]:
    """The class of the engine of that name; an unknown one is a `ValueError` with the nearest."""
    choose("engine", name, ENGINES)
    return getattr(importlib.import_module(f"autodidact.engines.{name}"), name.title())


ENGINES = ("actors", "cached", "denoise", "local", "server", "speculative", "vllm")


def function(where: str) -> Callable[..., Any]:
    """A user's function at `package.module:name` or `path/to/file.py:name`.

    Raises `ValueError` where there is none, see `autodidact.tasks.importing`.
    """
    return importlib.import_module("autodidact.tasks.importing").load(where)


def bind(function: Callable[..., Any], call: Call) -> dict[str, Any]:
    """The call's arguments after a check of their names against the function's signature."""
    allowed = list(inspect.signature(function).parameters)
    for key in call.arguments:
        if key not in allowed:
            raise ValueError(
                f"{call.name} has no option {key!r}; its options: {', '.join(allowed) or 'none'}"
                + nearest(key, allowed)
            )
    types = get_type_hints(inspect.unwrap(function))
    # Where a choice is called none, the bare word means it.
    return {
        key: "none" if value is None and "none" in get_args(types.get(key)) else value
        for key, value in call.arguments.items()
    }


def make(kind: Callable[[str], Callable[..., Any]], call: Call) -> Any:
    """What the call makes, `kind` being `method`, `task` or `engine`."""
    function = kind(call.name)
    return function(**bind(function, call))
