"""Options of commands: signatures of functions, put together.

A method's options are its factory's signature, those of a run the fields of `Run`, those of model
and data the signature of `settings.setting`; what they mean stands in their docstrings. There is no
second list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from cyclopts import Group, Parameter

from autodidact import settings
from autodidact.commands.signatures import Option, explain
from autodidact.run import Run

SHOWN = 25
"""Options that the help of a command shows; `--help-all` shows the others as well."""

COMMON = {
    "n": "completions drawn of each problem.",
    "length": "at most this many tokens a completion.",
    "temperature": "of sampling.",
    "top_k": "sample from this many likeliest tokens only; 0 for all.",
    "top_p": "sample from the likeliest tokens that make up this share only.",
    "epochs": "updates on one batch of completions.",
}
"""Options that mean the same in every method, for docstrings that do not say it again."""

USUAL_RUN = ("steps", "budget", "lr", "rows", "seed")
"""Fields of `Run` that help shows first."""
USUAL_SETTING = (
    "model",
    "data",
    "task",
    "columns",
    "test",
    "rewards",
    "lora",
    "precision",
    "track",
)


@cache
def run_options() -> tuple[Option, ...]:
    """The fields of `Run`."""
    types, said = get_type_hints(Run), explain(inspect.getdoc(Run) or "", "Attributes")
    said |= {
        "steps": "updates to make; 100 without a budget.",
        "budget": "stop when this much of a ledger column is spent.",
        "column": "the ledger column of the budget.",
        "schedule": 'of the learning rate; "cosine" falls to 0 at the end.',
        "warmup": "steps until the learning rate is reached.",
        "weight_decay": "of AdamW.",
    }
    return tuple(
        Option(
            field.name,
            types[field.name],
            inspect.Parameter.empty if field.default is MISSING else field.default,
            said.get(field.name, ""),
        )
        for field in fields(Run)
    )


def function_options(function: Callable[..., Any]) -> tuple[Option, ...]:
    """The keyword options of a function that is cheap to import."""
    types = get_type_hints(function)
    said = explain(inspect.getdoc(function) or "", "Args")
    return tuple(
        Option(each.name, types[each.name], each.default, said.get(each.name, ""))
        for each in inspect.signature(function).parameters.values()
        if each.kind is not each.VAR_KEYWORD
    )


def setting_options() -> tuple[Option, ...]:
    return function_options(settings.setting)


def pick(options: Iterable[Option], names: Sequence[str]) -> tuple[Option, ...]:
    """The options of these names, in this order."""
    known = {option.name: option for option in options}
    return tuple(known[name] for name in names)


def rest(options: Iterable[Option], names: Sequence[str]) -> tuple[Option, ...]:
    """The options of other names."""
    return tuple(option for option in options if option.name not in names)


def command(
    name: str,
    doc: str,
    run: Callable[..., Any],
    groups: Sequence[tuple[str, Sequence[Option]]],
    first: Sequence[inspect.Parameter] = (),
) -> Callable[..., Any]:
    """A function for cyclopts that calls `run` with the options that were given.

    Args:
        doc: its help.
        groups: (title, options), as they stand in the help.
        first: positional parameters.
    """

    def call(*args: Any, **values: Any) -> Any:
        return run(*args, **values)

    parameters = list(first)
    for title, options in groups:
        group = Group.create_ordered(title)
        for option in options:
            said = option.help or COMMON.get(option.name, "")
            # A flag that is off has nothing to switch off.
            negative = "" if option.default is False else None
            annotation = Annotated[
                option.annotation, Parameter(help=said, group=group, negative=negative)
            ]
            parameters.append(
                inspect.Parameter(
                    option.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=option.default,
                    annotation=annotation,
                )
            )
    call.__name__, call.__doc__ = name, doc
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call
