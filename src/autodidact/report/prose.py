"""The one-paragraph reading of a result: what the numbers say, and no more than they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autodidact.report import words

Summary = Mapping[str, Any]
LONGEST_TITLE = 60


def title(call: Summary) -> str:
    """What was run, on what."""
    if call["kind"] == "train":
        return f"{call['method']['name']} on {call['task']['name']}"
    arms = listed([arm["name"] for arm in call["arms"]])
    if len(arms) > LONGEST_TITLE:
        arms = words.count(len(call["arms"]), "arm")
    return f"{arms} at equal cost on {call['task']['name']}"


def reading(summary: Summary) -> str:
    """The result in a few sentences."""
    metric, samples = summary["metric"], summary["samples"]
    arms = [arm for arm in summary["arms"] if arm["final"][metric]]
    if not arms:
        return "The held-out problems have no answers, so there is no accuracy to report."
    best = max(arms, key=lambda arm: arm["final"][metric]["value"])
    final = best["final"][metric]
    how = {
        "sampled": f"mean of {samples} samples",
        "pass@k": f"pass@{words.half(samples)} of {samples} samples",
        "majority": f"majority of {samples} samples",
        "greedy": "greedy",
    }[metric]
    column = summary["budget"]["column"]
    ends = words.between(metric, final)
    within = f"; {summary['level']:.0%} interval {ends}" if ends else ""
    spent = words.amount(column, summary["budget"]["amount"])
    if not best["ledger"].get(column):
        other = "student_backward"
        spent = (
            f"{words.amount(other, best['ledger'][other])} (it spends no {words.column(column)})"
        )
    text = (
        f"After {spent}, "
        f"{best['name']} answers {words.number(metric, final['value'])}% of "
        f"{words.count(summary['problems'], 'held-out problem')} right "
        f"({how}{within}). "
    )
    return text + " ".join(
        filter(
            None,
            (
                gained(summary, best),
                rivals(summary, best),
                cost(summary),
                forgotten(best),
                caveat(summary),
            ),
        )
    )


def gained(summary: Summary, best: Summary) -> str:
    metric, gain = summary["metric"], best["gain"][summary["metric"]]
    if gain is None:
        return ""
    base = words.number(metric, summary["base"][metric]["value"])
    size, ends = words.number(metric, abs(gain["value"])), words.between(metric, gain, True)
    if words.sure(gain) > 0:
        return f"The model started at {base}%: a gain of {size} points ({ends})."
    if words.sure(gain) < 0:
        return f"The model started at {base}%: training cost it {size} points ({ends})."
    chance = f"; the change ({ends} points) can be chance" if ends else ""
    return f"The model started at {base}%{chance}."


def rivals(summary: Summary, best: Summary) -> str:
    """Which arms the best one is above, and which it cannot be told from."""
    metric, reference = summary["metric"], summary["reference"]
    above: list[str] = []
    level: list[str] = []
    for pair in summary["differences"]:
        found = pair["metrics"][metric]
        if pair["arm"] == best["name"] and found:
            size = words.number(metric, found["value"])
            size = f" by {size} points ({words.between(metric, found, True)})"
            told = pair["other"] + (size if pair["other"] == reference else "")
            (above if words.sure(found) > 0 else level).append(told)
    parts = [f"is above {listed(above)}"] if above else []
    parts += [f"cannot be told from {listed(level)}"] if level else []
    return f"At the end it {' and '.join(parts)}." if parts else ""


def cost(summary: Summary) -> str:
    """Tokens to reach the target, of the best ratio's arm against the reference."""
    target, column, reference = summary["target"], summary["budget"]["column"], summary["reference"]
    if not target:
        return ""
    theirs = next(arm for arm in summary["arms"] if arm["name"] == reference)["reach"].get(column)
    verdicts: dict[str, list[str]] = {}
    for arm in summary["arms"]:
        if arm["reach"].get(column) and "ratio" in arm["reach"][column]:
            said = compared(arm["reach"][column]["ratio"])
            verdicts.setdefault(said, []).append(arm["name"])
    told = [f"{listed(names)} {said}" for said, names in verdicts.items()]
    if theirs is None or not told:
        return ""
    goal = f"{100 * target['value']:.1f}%"
    if theirs["value"] is None:
        start = f"Within {words.amount(column, theirs['end'])} {reference} did not reach {goal}"
    else:
        start = f"To reach {goal}, {reference} took {words.amount(column, theirs['value'])}"
    return f"{start}; {'; '.join(told)}."


def compared(ratio: Summary) -> str:
    """A ratio in words: only an interval without 1 is called fewer or more."""
    sure, (_, ends) = words.surely(ratio), words.fewer(ratio)
    match ratio["case"]:
        case "reached" if sure > 0:
            return f"{words.times(ratio['value'])} times fewer ({ends})"
        case "reached" if sure < 0:
            return f"{words.times(1 / ratio['value'])} times more"
        case "reached":
            return "neither clearly fewer nor clearly more"
        case "reference not reached" if sure > 0:
            return f"at least {words.times(ratio['at_least'])} times fewer"
        case "reference not reached":
            return "got there, but not in every draw"
        case "met at the start":
            return "was there from the start"
        case _:
            return "did not get there"


def forgotten(best: Summary) -> str:
    change = best["gain"].get("forgetting")
    if change is None:
        return ""
    text = f"{words.number('forgetting', change['value'], True)} points, "
    text += words.between("forgetting", change, True)
    if not words.between("forgetting", change):
        return ""
    if words.sure(change) < 0:
        return f"It forgot: the untouched task lost ground ({text})."
    if words.sure(change) > 0:
        return f"The untouched task gained ({text})."
    return f"On the untouched task no change can be told ({words.between('forgetting', change)})."


def caveat(summary: Summary) -> str:
    if len(summary["seeds"]) == 1:
        return "There is one seed: intervals cover the choice of problems, not that of the seed."
    return ""


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
