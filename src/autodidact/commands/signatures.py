"""Signatures and docstrings of methods, read without importing them.

A method's module imports torch, which takes seconds, while help and a mistyped option must answer
at once. `importlib.util.LazyLoader` cannot put that off: decorators and type aliases at the top of
the core's modules use torch as they are imported. So the source is parsed with `ast`, and nothing
of it is executed; a test compares what is read here with `inspect.signature`, for every method.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, formatannotation
from pathlib import Path
from typing import Any, Literal

TYPES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "None": None, "Path": Path
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option. `default` is `inspect.Parameter.empty` where it must be given."""

    name: str
    annotation: Any
    default: Any = Parameter.empty
    help: str = ""

    def __str__(self) -> str:
        kind = formatannotation(self.annotation).replace("typing.", "")
        default = "" if self.default is Parameter.empty else f" = {self.default!r}"
        return f"{self.name}: {kind}{default}"


@dataclass(frozen=True)
class Factory:
    """A function that makes a method: its name, options and docstring."""

    name: str
    options: tuple[Option, ...]
    doc: str

    @property
    def signature(self) -> str:
        """The signature, an option a line, with the values that are allowed."""
        lines = "".join(f"\n    {option}," for option in self.options)
        return f"{self.name}({lines}\n)" if lines else f"{self.name}()"

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    def line(self, heading: str) -> str:
        """The first sentence after a heading such as "Source" or "Needs", on one line."""
        found = re.search(rf"^{heading}: (.*?)\.(?=\s|\Z)", self.doc, re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split()) if found else ""


@cache
def method(name: str) -> Factory:
    """What the file of a method says about its factory."""
    module = f"autodidact.methods.{name}"
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            break
    else:
        raise AssertionError(f"{module} defines the function {name}")
    doc = ast.get_docstring(node) or ""
    said = explain(doc, "Args")
    options = tuple(
        Option(each.arg, _type(each.annotation, module), value, said.get(each.arg, ""))
        for each, value in _arguments(node.args, module)
    )
    return Factory(name, options, doc)


def explain(doc: str, heading: str) -> dict[str, str]:
    """What a section of a docstring says about each name, such as "Args" or "Attributes".

    `a, b: text` speaks about both; a deeper line goes on with the text.
    """
    _, found, section = f"\n{doc}".partition(f"\n{heading}:\n")
    lines = section.split("\n") if found else []
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    said: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            break
        head = re.match(rf" {{{indent}}}(\w[\w, ]*): (.*)", line)
        if head:
            names = [name.strip() for name in head[1].split(",")]
        text = head[2] if head else line.strip()
        for name in names:
            said[name] = f"{said.get(name, '')} {text}".strip()
    return said


def _arguments(arguments: ast.arguments, module: str) -> Iterator[tuple[ast.arg, Any]]:
    named = [*arguments.posonlyargs, *arguments.args]
    free = len(named) - len(arguments.defaults)
    defaults: Sequence[ast.expr | None] = [*[None] * free, *arguments.defaults]
    for each, node in (
        *zip(named, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ):
        yield each, Parameter.empty if node is None else _value(node, module)


def _value(node: ast.expr, module: str) -> Any:
    if isinstance(node, ast.Name):
        return _value(*_definition(node.id, module))
    return ast.literal_eval(node)


def _type(node: ast.expr | None, module: str) -> Any:
    """The type that an annotation names; aliases are followed to where they are defined."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _type(ast.parse(node.value, mode="eval").body, module)
        if node.value is None:
            return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, module) | _type(node.right, module)
    if isinstance(node, ast.Name):
        return TYPES[node.id] if node.id in TYPES else _type(*_definition(node.id, module))
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(_value(each, module) for each in inside)]
        if node.value.id in ("Sequence", "list"):
            return list[_type(inside[0], module)]  # type: ignore[misc]
        if node.value.id == "tuple":
            return tuple[tuple(_type(each, module) for each in inside)]  # type: ignore[misc]
    said = "nothing" if node is None else ast.unparse(node)
    raise AssertionError(f"{module}: a command line has no way to read {said!r}")


def _definition(name: str, module: str) -> tuple[ast.expr, str]:
    """The expression that a module binds to a name, and the module where that is written."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module:
                    return _definition(alias.name, node.module)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value, module
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value:
            return node.value, module
    raise AssertionError(f"{module} does not say what {name} is")


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
