"""The command line. `main` turns what a user did wrong into a line or two and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Any

from cyclopts import App, CycloptsError, UnknownCommandError, UnknownOptionError
from cyclopts.exceptions import UnusedCliTokensError

from autodidact.commands import FURTHER
from autodidact.guards import Halted
from autodidact.interrupt import Stopped
from autodidact.names import choose
from autodidact.redact import printable

COMMANDS = {
    "train": ("train:app", "Train a model by a method."),
    "compare": ("compare:app", "Several methods, several seeds, one budget; a table and a report."),
    "evaluate": ("completions:evaluate", "Accuracy of a model or of a trained run."),
    "sample": ("completions:sample", "Show completions, right and wrong."),
    "methods": ("methods:methods", "What methods there are, or all about one of them."),
    "report": ("runs:report", "Write the HTML report of a run, and print its tables."),
    "show": ("runs:show", "A summary of a run."),
    "doctor": ("runs:doctor", "What is wrong with a finished run, and what to do about it."),
    "replay": ("replay:replay", "A step whose numbers went wrong, or any other, once more."),
    "verify": ("verify:verify", "Grade a file of completions."),
}
"""Name -> where it is in `autodidact.commands`, and its help. Imported when it is used."""

ELSEWHERE = {
    "learning-rate": "lr",
    "max-steps": "steps",
    "batch-size": "rows",
    "per-device-train-batch-size": "rows",
    "num-generations": "n",
    "max-completion-length": "length",
    "max-new-tokens": "length",
    "model-name-or-path": "model",
    "dataset-name": "data",
    "output-dir": "out",
    "report-to": "track",
    "reward-funcs": "rewards",
    "lora-r": "lora",
}
"""What options are called in other libraries, for who mistypes or misremembers one."""


def application(help_formatter: Any = "default") -> App:
    """The command line."""
    app = App(
        name="autodidact",
        help="Token-level post-training of language models: one model that teaches itself.",
        help_format="plaintext",
        help_formatter=help_formatter,
        version=_version,
        suppress_keyboard_interrupt=False,
    )
    for place, (name, (path, said)) in enumerate(COMMANDS.items()):
        app.command(f"autodidact.commands.{path}", name=name, help=said, sort_key=place)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line, `sys.argv` by default.

    Exit codes: 2 for what the user can mend, said in a line or two; 1 for a run that ended itself,
    as its numbers went wrong or memory did not suffice; 130 after an interrupt, 143
    after SIGTERM. Any other exception is a bug and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # What the encoding of a terminal or a log lacks is no reason to stop.
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    tokens = list(sys.argv[1:] if argv is None else argv)
    app = application("default" if "--help-all" in tokens else ShortHelp())
    tokens = ["--help" if token == "--help-all" else token for token in tokens]
    try:
        app(tokens, print_error=False, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:
        _refuse(explain(error))
    except ValueError as error:
        _refuse(str(error))
    except Halted as error:
        _refuse(str(error), code=1)
    except KeyboardInterrupt as stop:
        sys.exit(stop.code if isinstance(stop, Stopped) else 130)
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; keep Python from flushing into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def explain(error: CycloptsError) -> str:
    """What is wrong with a command line, with the nearest valid name."""
    chain = list(error.command_chain or ())
    given = error.root_input_tokens or []
    if chain == ["train"] and isinstance(error, (UnusedCliTokensError, UnknownOptionError)):
        from autodidact import calls

        after = given[given.index("train") + 1]
        if not after.startswith("-"):
            return _reason("method", after, calls.names("methods"))
    if isinstance(error, UnknownCommandError) and not chain and error.unused_tokens:
        return _reason("command", error.unused_tokens[0], list(COMMANDS))
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error.token.keyword or error.token.value, chain, error)
    return str(error)


def _unknown_option(given: str, chain: Sequence[str], error: UnknownOptionError) -> str:
    if chain[:1] == ["train"] and given == "--resume":
        return "--resume stands alone: autodidact train --resume DIR"
    if chain == ["train"]:
        return f"{given} stands after the method: autodidact train METHOD {given}"
    known = {name.lstrip("-") for each in error.argument_collection for name in each.names}
    meant = {name: name for name in sorted(known)}
    meant |= {theirs: ours for theirs, ours in ELSEWHERE.items() if ours in known}
    near = get_close_matches(given.lstrip("-").replace("_", "-"), meant, n=1, cutoff=0.6)
    hint = f"; did you mean --{meant[near[0]]}?" if near else "."
    command = " ".join(["autodidact", *chain])
    return f"unknown option {given}{hint} All options: {command} --help-all"


def _reason(kind: str, given: str, allowed: Sequence[str]) -> str:
    try:
        choose(kind, given, allowed)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{given} is a {kind}")


def _refuse(reason: str, code: int = 2) -> None:
    if os.environ.get("RANK", "0") == "0":  # the first of several processes speaks for all
        print(f"autodidact: {printable(reason)}", file=sys.stderr)
    sys.exit(code)


def _version() -> str:
    from importlib.metadata import version

    return version("autodidact")


class ShortHelp:
    """A help formatter that counts the further options instead of showing them."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        from cyclopts.help.formatters import DefaultFormatter  # brings rich

        if panel.title == FURTHER:
            console.print(f"{len(panel.entries)} further options: --help-all")
        else:
            DefaultFormatter()(console, options, panel)

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        from cyclopts.help.formatters import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)
