"""Users' reward functions, in the process that runs them: loading, calling, reading numbers."""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import math
import os
import traceback
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from autodidact.tasks.importing import load
from autodidact.tasks.worker import bounded

TEXT = 300
"""Characters that are kept of what an error says."""
FRAMES = 4
"""Places of a traceback that are kept, the innermost ones."""

LOADED: dict[str, Callable[..., Any]] = {}
"""The functions of this process, by import path."""


class _Raised(Exception):
    """A function raised: `kind`, and `text` with what it said and where."""

    def __init__(self, error: Exception):
        self.kind = type(error).__name__
        *_, last = traceback.format_exception_only(error)  # also where `str(error)` raises
        said = last.strip().partition(": ")[2]
        self.text = f"{self.kind}: {said}"[:TEXT]
        places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in _frames(error)]
        self.text += f" ({' < '.join(places)})" if places else ""


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """Where in the user's code, the innermost place first."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in reversed(frames) if frame.filename != __file__][:FRAMES]


class _WrongError(Exception):
    """A function returned what is no list with a number or `None` for each completion."""


def answer(request: dict[str, Any], wall: float) -> dict[str, Any]:
    """Load a function, or call some; where it stands is printed if it takes too long."""
    faulthandler.dump_traceback_later(wall, exit=True)
    own = os.getpid()
    try:
        return _loaded(**request["load"]) if "load" in request else _called(request["calls"])
    finally:
        if os.getpid() == own:  # a fork has no watch, and would wait for it here
            faulthandler.cancel_dump_traceback_later()


def _loaded(name: str, memory: int | None) -> dict[str, Any]:
    """What a function takes; from now on it may use `memory` bytes more than this process does."""
    try:
        function = LOADED[name] = load(name)
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:  # nothing there, or a callable without a signature
        return {"fault": str(error)}
    if memory is not None:
        bounded(AS=_size() + memory)
    kinds = inspect.Parameter
    named = {n: p for n, p in parameters.items() if p.kind is not kinds.VAR_KEYWORD}
    if any(p.kind in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL) for p in named.values()):
        return {
            "fault": f"reward function {name} takes unnamed arguments; allowed: "
            "f(prompts, completions, **columns)"
        }
    if "completion_ids" in named and named["completion_ids"].default is kinds.empty:
        return {
            "fault": f"reward function {name} needs completion_ids; token ids are not passed to "
            "rewards, which read text"
        }
    annotation = str(getattr(named.get("completions"), "annotation", ""))
    return {
        "messages": annotation.replace("typing.", "").lower().startswith("list[list["),
        "wanted": list(named) if len(named) == len(parameters) else None,
        "required": [n for n, p in named.items() if p.default is kinds.empty],
        "file": _file(function),
    }


def _file(function: Callable[..., Any]) -> str | None:
    """The file that a function stands in; `None` where that cannot be told, or in an archive."""
    try:
        place = inspect.getsourcefile(_callable(function))
    except TypeError:
        return None
    return place if place is not None and Path(place).is_file() else None


def _size() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    found = Path("/proc/self/statm")
    if not found.exists():
        return 0
    return int(found.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _called(calls: Sequence[tuple[str, int, list[str], dict[str, Any]]]) -> dict[str, Any]:
    """Call functions, the `async` ones all at once: name, completions, further names, columns."""
    metrics: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    tools = {
        "log_metric": lambda name, value: metrics.__setitem__(str(name), float(value)),
        "log_extra": lambda name, values: extra.__setitem__(str(name), [*map(_plain, values)]),
        "trainer_state": None,
    }
    given = [{**columns, **{name: tools[name] for name in more}} for _, _, more, columns in calls]
    waiting = {
        index: _awaited(LOADED[name], arguments)
        for index, ((name, *_), arguments) in enumerate(zip(calls, given, strict=True))
        if inspect.iscoroutinefunction(_callable(LOADED[name]))
    }
    done = dict(zip(waiting, _gather(list(waiting.values())), strict=True)) if waiting else {}
    results: list[dict[str, Any]] = []
    for index, ((name, count, *_), arguments) in enumerate(zip(calls, given, strict=True)):
        try:
            if index not in done:
                values = _numbers(name, _result(LOADED[name], arguments), count)
            elif isinstance(done[index], _Raised):
                raise done[index]
            else:
                values = _numbers(name, done[index], count)
        except _Raised as error:
            results.append({"raised": error.kind, "text": error.text})
        except _WrongError as error:
            results.append({"wrong": str(error)})
        else:
            results.append({"values": values})
    return {"results": results, "metrics": metrics, "extra": extra}


def _plain(value: Any) -> Any:
    """A logged value as JSON has it, what it has not as text."""
    return value if isinstance(value, str | int | float | None) else str(value)


def _result(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise _Raised(error) from error


async def _awaited(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return await function(**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise _Raised(error) from error


def _numbers(name: str, result: Any, count: int) -> list[float | None]:
    values = _listed(result)
    if not isinstance(values, list | tuple):
        raise _WrongError(
            f"reward function {name} returned {type(result).__name__}; "
            "allowed: a list with a number or None for each completion"
        )
    if len(values) != count:
        raise _WrongError(
            f"reward function {name} returned {len(values)} rewards for {count} "
            "completions; allowed: exactly one each"
        )
    return [_number(name, index, value) for index, value in enumerate(values)]


def _listed(result: Any) -> Any:
    try:
        return result.tolist() if hasattr(result, "tolist") else result
    except Exception as error:  # an array of the user's own making
        raise _Raised(error) from error


def _number(name: str, index: int, value: Any) -> float | None:
    try:
        value = value.item() if hasattr(value, "item") else value
        if value is None or isinstance(value, Real):
            return None if value is None else float(value)
        shown = f"{value!r:.60}"
    except OverflowError:
        return math.inf  # a whole number beyond all floats
    except Exception as error:  # an object of the user's own making
        raise _Raised(error) from error
    raise _WrongError(
        f"reward function {name} returned {shown} ({type(value).__name__}) for "
        f"completion {index}; allowed: a number or None"
    )


def _callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that runs on a call: `__call__` of an object."""
    return function if inspect.isroutine(function) else type(function).__call__


def _gather(calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        found = await asyncio.gather(*calls, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, _Raised):
                raise each
        return found

    return _loop().run_until_complete(all_of_them())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all calls, so that the clients a function keeps open stay usable."""
    return asyncio.new_event_loop()
