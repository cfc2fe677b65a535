"""How numbers, columns and metrics are written, in the report and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TIMES = "\N{MULTIPLICATION SIGN}"

COLUMNS = {
    "generated": "generated tokens",
    "reused": "generated tokens, reused",
    "prefilled": "prompt tokens for generation",
    "drafted": "tokens proposed by a draft model",
    "teacher_forward": "teacher forward tokens",
    "student_forward": "student forward tokens",
    "student_backward": "student backward tokens",
    "trained": "tokens with a gradient",
    "total": "forward and backward tokens",
    "optimizer_steps": "optimizer steps",
    "verified": "completions graded",
    "seconds": "seconds",
    "peak_bytes": "peak memory",
}

FIELDS = {
    "loss": "loss",
    "reward": "reward",
    "accuracy": "accuracy of the rollouts",
    "signal": "mean size of the signal",
    "grad_norm": "gradient norm",
    "length": "length in tokens",
    "truncated": "share cut at the length limit",
    "entropy": "entropy in nats",
    "acceptance": "share of draws that the teacher would accept",
    "mismatch_mean": "sampler against trainer, mean |Δ log p|",
    "ess": "effective sample size, share",
    "staleness": "updates behind, of the weights that drew",
}

SHARES = ("greedy", "sampled", "pass@k", "majority", "forgetting", "truncated")


def column(name: str) -> str:
    """A ledger column in words."""
    return COLUMNS.get(name, name.replace("_", " "))


def half(samples: int) -> int:
    """The k of pass@k: half of the samples, so that the unbiased estimate is not saturated."""
    return max(1, samples // 2)


def metric(name: str, samples: int) -> str:
    """A metric in words, for `samples` samples of a problem."""
    known = {
        "sampled": f"mean of {samples}",
        "pass@k": f"pass@{half(samples)}",
        "majority": f"majority of {samples}",
        "forgetting": "untouched task",
        "truncated": "cut off",
    }
    return known.get(name, name)


def short(value: float, digits: int = 3) -> str:
    """A count with a suffix: 950, 12.3k, 4.56M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g}{suffix}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.{digits}g}"


def spent(name: str, value: float) -> str:
    """An amount of a ledger column, with its unit where that is not a count."""
    if name == "seconds":
        if value < 120:
            return f"{value:.3g} s"
        minutes = value / 60
        return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"
    if name == "peak_bytes":
        return f"{value / 2**20:,.0f} MiB" if value < 2**33 else f"{value / 2**30:.1f} GiB"
    return short(value)


def amount(name: str, value: float) -> str:
    """An amount with what it is of: "120k generated tokens", "42 s"."""
    unit = "" if name in ("seconds", "peak_bytes") else f" {column(name)}"
    return spent(name, value) + unit


def number(name: str, value: float, signed: bool = False) -> str:
    """A metric's value: shares in percent, lengths and entropies as they are."""
    if name in SHARES:
        text = f"{100 * value:{'+' if signed else ''}.1f}"
    else:
        digits = 1 if name == "length" else 3
        text = f"{value:{'+' if signed else ''}.{digits}f}"
    # A minus of its own width; and nothing is "-0.0".
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("+-")


def between(name: str, interval: Mapping[str, Any], signed: bool = False) -> str:
    """The two ends of an interval: "66.1 to 75.9"; nothing if it has none."""
    if interval["low"] is None:
        return ""
    low, high = (number(name, interval[end], signed) for end in ("low", "high"))
    return f"{low} to {high}"


def sure(interval: Mapping[str, Any] | None) -> int:
    """1 if an interval lies above zero, -1 if below, else 0: it includes zero or has no ends."""
    if interval is None or interval["low"] is None:
        return 0
    return (interval["low"] > 0) - (interval["high"] < 0)


def times(value: float) -> str:
    """A ratio: 3.1, 12, 0.42."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def reached(name: str, found: Mapping[str, Any]) -> tuple[str, str]:
    """A budget to the target and its interval; an end that is not reached is said to be so."""
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        main = f"not within {spent(name, found['end'])}"
    else:
        main = "met at the start" if value == 0 else spent(name, value)
    if low is None:
        return main, "not reached in any draw" if found["unreached"] == 1 else "not reached"
    ends = f"{spent(name, low)} to {'not reached' if high is None else spent(name, high)}"
    return main, ends


def fewer(found: Mapping[str, Any] | None) -> tuple[str, str]:
    """A ratio to the reference in words, and its interval.

    "over": the reference did not reach the target; what it spent in vain is a lower bound.
    """
    if found is None:
        return "", ""
    low, high = found["low"], found["high"]
    ends = ""
    if low is not None:
        ends = f"{times(low)} to {'unbounded' if high is None else times(high)}"
    match found["case"]:
        case "reached":
            main = f"{times(found['value'])}{TIMES}"
        case "reference not reached":
            main = f"over {times(found['at_least'])}{TIMES}"
        case "not reached":
            main = "did not reach it"
        case "neither reached":
            main = "neither reached it"
        case _:
            main = "met at the start"
    return main, ends


def surely(found: Mapping[str, Any]) -> int:
    """1 if an arm surely needs less than the reference, -1 if more, else 0.

    Nothing is sure if more than one draw in twenty has no ratio. A lower end that is not finite
    is one above 1.
    """
    low, high = found["low"], found["high"]
    if found["undefined"] > 0.05:
        return 0
    return (low is None or low > 1) - (high is not None and high < 1)


def shortened(name: str, most: int = 20) -> str:
    """A name that fits beside a chart."""
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def percent(share: float) -> str:
    """A share in whole percent; small ones say so."""
    if 0 < share < 0.01:
        return "under 1%"
    return f"{100 * share:.0f}%" if share < 0.995 or share == 1 else "over 99%"


def count(amount: int, noun: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
