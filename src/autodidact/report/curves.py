"""The chart sections: accuracy against every budget, side effects, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autodidact.report import words
from autodidact.report.charts import Level, Line, chart
from autodidact.report.estimators import BUDGETS
from autodidact.report.html import dotted, note, text
from autodidact.report.read import Record

Summary = Mapping[str, Any]
MOST_POINTS = 300


def accuracy(summary: Summary, hues: Mapping[str, int]) -> str:
    """The main metric against the run's budget, large, and against the other columns, small."""
    metric, main = summary["metric"], summary["budget"]["column"]
    known = [name for name in BUDGETS if any(name in arm["ledger"] for arm in summary["arms"])]
    columns = [main, *(name for name in known if name != main)]
    base, target = summary["base"] and summary["base"][metric], summary["target"]
    levels = [Level(base["value"], "base model")] if base else []
    levels += [Level(target["value"], "target")] if target else []
    by_column = {name: curves(summary, hues, metric, name, labelled=True) for name in columns}
    if not any(by_column.values()):
        return ""
    limits = bounds([line for found in by_column.values() for line in found], levels)
    options: dict[str, Any] = {"levels": levels, "share": True, "limits": limits}
    figures, hero = [], ""
    for name in columns:
        lines = by_column[name]
        alt = spoken(metric, summary["samples"], words.column(name), lines)
        caption = f"by {text(words.column(name))}{absent(summary, name)}"
        if not lines:
            figures.append(f"<figure><figcaption>{caption}</figcaption></figure>")
        elif name == main:
            room = 24 + 7 * max(len(line.label) for line in lines)
            wide = chart(f"main-{name}", lines, alt=alt, size=(880, 370), room=room, **options)
            narrow = chart(f"small-{name}", lines, alt=alt, size=(380, 280), **options)
            hero = (
                f"<figure><figcaption>{caption}</figcaption>"
                f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'
            )
        else:
            drawn = chart(f"by-{name}", lines, alt=alt, size=(400, 220), **options)
            figures.append(f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>")
    return f'{legend(hues)}{hero}<div class="grid pairs">{"".join(figures)}</div>'


def side_effects(summary: Summary, hues: Mapping[str, int]) -> str:
    """Length, entropy and the untouched task over the run's budget."""
    column = summary["budget"]["column"]
    names = {
        "length": "length of a completion, tokens",
        "entropy": "entropy of the next token, nats",
        "forgetting": "untouched task, accuracy",
        "truncated": "completions cut at the length limit",
    }
    figures = []
    for name, caption in names.items():
        lines = curves(summary, hues, name, column)
        if lines:
            alt = spoken(name, summary["samples"], words.column(column), lines)
            options: dict[str, Any] = {"share": name in words.SHARES, "limits": bounds(lines, [])}
            drawn = chart(f"side-{name}", lines, alt=alt, size=(330, 210), **options)
            figures.append(f"<figure><figcaption>{text(caption)}</figcaption>{drawn}</figure>")
    return f'{legend(hues)}<div class="grid">{"".join(figures)}</div>' if figures else ""


def curves(
    summary: Summary, hues: Mapping[str, int], metric: str, column: str, labelled: bool = False
) -> list[Line]:
    """One line for each arm that spends anything in the column, the best one last."""
    lines = []
    for arm in summary["arms"]:
        points = [point for point in arm["curve"] if point["metrics"][metric]]
        if not points or not arm["ledger"].get(column):
            continue
        found = [point["metrics"][metric] for point in points]
        y, low, high = ([one[key] for one in found] for key in ("value", "low", "high"))
        label = (
            f"{words.shortened(arm['name'])}  {words.number(metric, y[-1])}%"
            if labelled
            else arm["name"]
        )
        x = [point["budget"][column] for point in points]
        banded = None not in low
        lines.append(
            Line(label, hues[arm["name"]], x, y, low if banded else (), high if banded else ())
        )
    return sorted(lines, key=lambda line: line.y[-1])


def absent(summary: Summary, column: str) -> str:
    names = [arm["name"] for arm in summary["arms"] if not arm["ledger"].get(column)]
    return f" <span>({text(', '.join(names))}: spends none)</span>" if names else ""


def bounds(lines: Sequence[Line], levels: Sequence[Level]) -> tuple[float, float]:
    """Limits of an axis that holds every band, with a little air."""
    ends = [end for line in lines for part in (line.y, line.low, line.high) for end in part]
    ends += [level.value for level in levels]
    low, high = min(ends), max(ends)
    air = max(0.06 * (high - low), 0.02 * abs(high)) or 0.05
    return low - air, high + air


def legend(hues: Mapping[str, int]) -> str:
    parts = "".join(f"<li>{dotted(hue)}{text(name)}</li>" for name, hue in hues.items())
    return f'<ul class="legends">{parts}</ul>' if len(hues) > 1 else ""


def spoken(metric: str, samples: int, axis: str, lines: Sequence[Line]) -> str:
    """What a chart shows, for those who do not see it."""
    ends = [
        f"{line.label.split('  ')[0]} ends at {words.number(metric, line.y[-1])}" for line in lines
    ]
    return f"{words.metric(metric, samples)} against {axis}: {'; '.join(ends)}"


def training(record: Record, hues: Mapping[str, int]) -> str:
    """What was logged at every step. Losses of different methods are not compared."""
    single = len(record.arms) == 1
    figures = []
    for name, caption in words.FIELDS.items():
        if name == "loss" and not single:
            continue
        lines, broken = [], []
        for arm in record.arms:
            for seed in arm.seeds:
                logged = [
                    (line["step"], line[name]) for line in seed.steps if line.get(name) is not None
                ]
                finite = [(step, value) for step, value in logged if words.is_number(value)]
                broken += [step for step, value in logged if not words.is_number(value)]
                lines += smoothed(finite, arm.name, hues[arm.name], single)
        if not lines and not broken:
            continue
        bad = (
            f"{words.count(len(broken), 'step')} not finite, the first is {min(broken)}"
            if broken
            else ""
        )
        alt = f"{caption} by step. {bad}"
        drawn = (
            chart(f"step-{name}", lines, alt=alt, size=(330, 190), limits=bounds(lines, []))
            if lines
            else ""
        )
        title = f"<figcaption>{text(caption)} <span>{text(bad)}</span></figcaption>"
        figures.append(f"<figure>{title}{drawn}</figure>")
    if not figures:
        return ""
    body = f'{legend(hues)}<div class="grid">{"".join(figures)}</div>'
    said = note("By optimizer step; a running mean over a twentieth of the run.")
    if single:
        return said + body
    fold = f"<details><summary>{len(figures)} charts of what was logged</summary>"
    return f"{fold}{said}{body}</details>"


def smoothed(points: Sequence[tuple[float, float]], label: str, hue: int, raw: bool) -> list[Line]:
    """A running mean over a twentieth of the run, and the points themselves behind it."""
    if not points:
        return []
    x, y = np.asarray(points, dtype=float).T
    width = len(y) // 20
    lines = []
    if width > 1:
        if raw:
            lines.append(Line(label, hue, *thinned(x, y), faint=True, marked=False))
        kernel = np.ones(2 * (width // 2) + 1)
        y = np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")
    lines.append(Line(label, hue, *thinned(x, y), faint=not raw, marked=len(y) == 1))
    return lines


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """At most a few hundred points: of each stretch its lowest and its highest."""
    if len(x) <= MOST_POINTS:
        return x.tolist(), y.tolist()
    kept = set()
    for part in np.array_split(np.arange(len(x)), MOST_POINTS // 2):
        kept |= {part[y[part].argmin()], part[y[part].argmax()]}
    order = sorted(kept)
    return x[order].tolist(), y[order].tolist()
