"""What the studies share: a setting, a comparison, a table, a command line."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.studies.beside import Make, beside

from autodidact import compare

SMALL: dict[str, Any] = {
    "length": 40,
    "lr": 5e-4,
    "rows": 32,
    "budget": 24_000,
    "seeds": (0, 1, 2),
    "eval_points": 1,
    "eval_problems": 100,
    "eval_samples": 8,
}
"""The shipped model on its own task: about ten seconds for an arm and a seed on one core."""

REAL: dict[str, Any] = {
    "model": "Qwen/Qwen3-1.7B",
    "lora": 64,
    "lora_alpha": 128,
    "precision": "bf16",
    "engine": "vllm",
    "thinking": False,
    "length": 1024,
    "lr": 5e-6,
    "rows": 32,
    "grad_clip": 0.1,
    "budget": 3_000_000,
    "seeds": (0, 1, 2),
    "eval_points": 4,
    "eval_problems": 200,
    "eval_samples": 12,
    "eval_length": 8192,
}
"""Settings of OPSD (2601.18734), about 100 steps an arm; they have not been run here. They count
where `data` is given: a file with questions, solutions and answers."""


def study(
    arms: Sequence[str],
    out: Path | str | None,
    options: Mapping[str, Any],
    aside: Mapping[str, Make] | None = None,
    write: Callable[[Path], str] | None = None,
) -> Path:
    """Compare arms at equal generated tokens, the last checkpoint counting, and print a table.

    Args:
        arms: as in `autodidact.compare`; the first is what the others are set against.
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`, in place of those of the setting.
        aside: methods that no paper proposes, by name, see `beside`.
        write: makes the table of the run directory; `table` by default.

    Returns:
        The run directory.
    """
    setting = REAL if options.get("data") else SMALL
    found = compare(arms, out=out, tell=_tell, **{**setting, **options})
    for name, make in (aside or {}).items():
        beside(found, name, make)
    print((write or table)(found))
    return found


def _tell(text: str, done: float) -> None:
    print(f"{done:4.0%}  {text}", flush=True)


def table(
    directory: Path,
    finals: Sequence[str] = ("greedy", "entropy", "length"),
    steps: Sequence[str] = ("tv", "cosine"),
    further: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The end of training in Markdown, accuracies in per cent with 95% intervals.

    "against": the paired difference to the first arm. "cosine": of the clipped to the unclipped
    gradient in the logits, "tv": the total variation to the teacher.

    Args:
        finals: further metrics of the last evaluation.
        steps: measured on every step; means over all of them.
        further: columns by name, each the text of every arm that has one.
    """
    summary = json.loads((directory / "compare.json").read_text(encoding="utf-8"))
    first, *_ = summary["arms"]
    more = further or {}
    heads = ["arm", "sampled", "gain", f"against {first['name']}", *finals, "steps", *steps, *more]
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    before = ["before", *_ends(summary["base"], None, None, finals)]
    rows.append(before + [""] * (len(heads) - len(before)))
    for arm in summary["arms"]:
        name = arm["name"]
        against = None if arm is first else _against(summary, name, first["name"])
        rows.append(
            [name, *_ends(arm["final"], arm["gain"], against, finals)]
            + [f"{arm['ledger']['optimizer_steps']:.0f}"]
            + [_mean(directory, arm, each) for each in steps]
            + [column.get(name, "") for column in more.values()]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ends(
    final: Mapping, gain: Mapping | None, against: Mapping | None, finals: Sequence[str]
) -> list[str]:
    return [
        _percent(final["sampled"]),
        "" if gain is None else _percent(gain["sampled"], signed=True),
        "" if against is None else _percent(against, signed=True),
        *(WRITE.get(name, _percent)(final[name]) for name in finals),
    ]


WRITE: dict[str, Callable[[Mapping[str, float]], str]] = {
    "entropy": lambda found: f"{found['value']:.3f}",
    "length": lambda found: f"{found['value']:.1f}",
    "distinct": lambda found: f"{found['value']:.2f}",
}
"""How metrics that are no shares are written."""


def _percent(found: Mapping[str, float | None], signed: bool = False) -> str:
    """A share in per cent, with its interval where there is one."""
    sign = "+" if signed else ""
    ends = [found[end] for end in ("value", "low", "high")]
    value, *interval = [None if end is None else f"{100 * end:{sign}.1f}" for end in ends]
    return f"{value} [{interval[0]}, {interval[1]}]" if interval[0] is not None else f"{value}"


def _against(summary: Mapping[str, Any], arm: str, other: str) -> Mapping[str, Any]:
    return next(
        each["metrics"]["sampled"]
        for each in summary["differences"]
        if (each["arm"], each["other"]) == (arm, other)
    )


def _mean(directory: Path, arm: Mapping[str, Any], name: str) -> str:
    """Mean of what every step of an arm measured; empty where it measured no such thing."""
    found = []
    for seed in arm["seeds"]:
        path = directory / "arms" / arm["name"] / f"seed-{seed}" / "metrics.jsonl"
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found += [line[name] for line in lines if line.get(name) is not None]
    return f"{sum(found) / len(found):.2f}" if found else ""


def main(run: Callable[..., Path]) -> None:
    """A study as a command: `--out DIR`, and options of `autodidact.compare` as NAME=VALUE."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("--out", type=Path, help="the run directory; by default under runs/")
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args()
    run(given.out, **dict(map(_option, given.options)))


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"{text!r} is no option such as budget=20000")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
