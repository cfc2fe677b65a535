"""Functions of users, named by import path."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from autodidact.names import nearest

ALLOWED = "package.module:function or path/to/file.py:function"


def load(where: str) -> Callable[..., Any]:
    """The function at `package.module:function` or `path/to/file.py:function`.

    The current folder and the folder of a file are searched for further imports, after all others.

    Raises:
        ValueError: no such file, module or function, or importing it failed.
    """
    place, _, name = where.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"{where!r} is no import path; allowed: {ALLOWED}")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n in dir(module) if n[0] != "_" and callable(getattr(module, n))]
        raise ValueError(
            f"{where}: {place} has no function {name!r}; functions there: "
            f"{', '.join(names) or 'none'}{nearest(name, names)}"
        )
    return function


def raised(error: Exception) -> str:
    """An error of a user's code with its place: `KeyError: 'x' (my_rewards.py:12)`."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    _also_search(path.resolve().parent)
    return _imported(str(path), lambda: _executed(path.resolve(), path.stat().st_mtime_ns))


@lru_cache
def _executed(path: Path, changed: int) -> ModuleType:
    """The module of a file: the same one for all of its functions, until the file changes."""
    name = "user_" + re.sub(r"\W", "_", str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    _also_search(Path.cwd())
    return _imported(name, lambda: importlib.import_module(name))


def _also_search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that it hides nothing


def _imported(place: str, imports: Callable[[], ModuleType]) -> ModuleType:
    try:
        return imports()
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(f"{place} cannot be imported: {raised(error)}") from error
