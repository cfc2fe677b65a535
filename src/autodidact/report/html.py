"""Tables and small parts of the page. Every text that comes from a run goes through `text`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from autodidact.report import words
from autodidact.report.charts import HUES
from autodidact.report.scored import TABLE

Summary = Mapping[str, Any]


def text(value: object) -> str:
    """Text for HTML, inside elements and attributes."""
    return escape(str(value), quote=True)


def section(name: str, heading: str, body: str) -> str:
    head = f'<h2 id="{name}-h">{text(heading)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-h">{head}{body}</section>'


def note(said: str) -> str:
    return f'<p class="note">{text(said)}</p>' if said else ""


def grid(head: Sequence[str], rows: Sequence[str], label: str) -> str:
    """A table that scrolls sideways on a narrow screen; the first column stays."""
    cells = "".join(f'<th scope="col">{text(one)}</th>' for one in head)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(name: str, hue: int | None, cells: Sequence[str]) -> str:
    """One arm's row; `hue` None is the base model."""
    kind = ' class="base"' if hue is None else ""
    dot = '<span class="dot"></span>' if hue is None else dotted(hue)
    return f'<tr{kind}><th scope="row">{dot}{text(name)}</th>{"".join(cells)}</tr>'


def dotted(hue: int) -> str:
    return f'<span class="dot h{hue % HUES}"></span>'


def cell(main: str, below: str = "", sure: bool = False, more: str = "") -> str:
    """A cell: a value, its interval below it, and more, which is HTML."""
    small = f"<small>{text(below)}</small>" if below else ""
    kind = ' class="sure"' if sure else ""
    return f"<td{kind}>{text(main)}{small}{more}</td>"


def interval(name: str, found: Summary | None, signed: bool = False) -> str:
    """A cell with a value over its interval; bold if a difference excludes zero."""
    if found is None:
        return cell("\N{EN DASH}")
    sure = signed and words.sure(found) != 0
    return cell(
        words.number(name, found["value"], signed), words.between(name, found, signed), sure=sure
    )


def whisker(
    found: Summary | None, base: Summary | None, hue: int | None, span: tuple[float, float]
) -> str:
    """The interval drawn on the scale that all rows share; the tick is the base model."""
    if found is None or found["low"] is None:
        return "<td></td>"
    low, high = span

    def at(value: float) -> str:
        return f"{6 + 96 * (value - low) / (high - low):.1f}"

    tick = ""
    if base:
        x = at(base["value"])
        tick = (
            f'<line x1="{x}" x2="{x}" y1="1" y2="15" stroke="var(--muted)" stroke-dasharray="2 2"/>'
        )
    ends, colour = (at(found["low"]), at(found["high"])), "var(--hue, var(--muted))"
    kind = "" if hue is None else f" h{hue % HUES}"
    return (
        f'<td><svg class="whisker{kind}" viewBox="0 0 108 16" aria-hidden="true">'
        f'<line x1="0" x2="108" y1="8" y2="8" stroke="var(--rule)"/>{tick}'
        f'<line x1="{ends[0]}" x2="{ends[1]}" y1="8" y2="8" stroke="{colour}" '
        f'stroke-width="2.5" stroke-linecap="round"/>'
        f'<circle cx="{at(found["value"])}" cy="8" r="4.2" fill="{colour}"/></svg></td>'
    )


def results(summary: Summary, hues: Mapping[str, int]) -> str:
    """Final metrics of the base model and of every arm."""
    metric, samples = summary["metric"], summary["samples"]
    shown = [name for name in TABLE if any(arm["final"][name] for arm in summary["arms"])]
    rows: list[tuple[str, int | None, Summary, Summary]]
    rows = [(arm["name"], hues[arm["name"]], arm["final"], arm["gain"]) for arm in summary["arms"]]
    if base := summary["base"]:
        rows.insert(0, ("base model", None, base, {}))
    drawn = [values[metric] for _, _, values, _ in rows if values[metric]]
    ends = [one[end] for one in drawn for end in one if one["low"] is not None]
    span = (min(ends), max(ends)) if len(set(ends)) > 1 else (0.0, 1.0)
    head, body = ["arm"], []
    for name in shown:
        head.append(words.metric(name, samples))
        if name == metric:
            head += ["", "against base"]
    for name, hue, values, gain in rows:
        cells = []
        for one in shown:
            cells.append(interval(one, values[one]))
            if one == metric:
                cells.append(whisker(values[one], base and base[one], hue, span))
                cells.append(interval(one, gain.get(one), True) if hue is not None else "<td></td>")
        body.append(row(name, hue, cells))
    return grid(head, body, "final metrics")


def differences(summary: Summary, hues: Mapping[str, int]) -> str:
    """Row minus column, at the end of training."""
    metric, names = summary["metric"], [arm["name"] for arm in summary["arms"]]
    if len(names) < 2:
        return ""
    found = {(one["arm"], one["other"]): one["metrics"][metric] for one in summary["differences"]}
    body = [
        row(
            arm,
            hues[arm],
            [
                cell("") if arm == other else interval(metric, found.get((arm, other)), True)
                for other in names
            ],
        )
        for arm in names
    ]
    return grid(["row minus column", *names], body, "paired differences")


def reaches(summary: Summary, hues: Mapping[str, int]) -> str:
    """What each arm had spent when it reached the target, and how many times less that is."""
    columns = list(dict.fromkeys(name for arm in summary["arms"] for name in arm["reach"]))
    body = []
    for arm in summary["arms"]:
        cells = []
        for name in columns:
            found = arm["reach"].get(name)
            if found is None:
                cells.append(cell("spends none"))
                continue
            main, ends = words.reached(name, found)
            more = versus(found.get("ratio"))
            if 0 < found["unreached"] < 1:
                more += f"<small>{words.percent(found['unreached'])} of draws never</small>"
            cells.append(cell(main, ends, more=more))
        body.append(row(arm["name"], hues[arm["name"]], cells))
    return grid(["arm", *map(words.column, columns)], body, "budget to reach the target")


def versus(ratio: Summary | None) -> str:
    """The ratio to the reference; bold if its interval excludes 1."""
    main, ends = words.fewer(ratio)
    if ratio is None or not main:
        return ""
    kind = ' class="sure"' if words.surely(ratio) else ""
    return f"<em{kind}>{text(f'{main} ({ends})' if ends else main)}</em>"


def ledger(summary: Summary, hues: Mapping[str, int]) -> str:
    """What each arm spent in all, by kind."""
    known = dict.fromkeys(name for arm in summary["arms"] for name in arm["ledger"])
    columns = [name for name in words.COLUMNS if name in known]
    columns += [name for name in known if name not in words.COLUMNS]
    body = []
    for arm in summary["arms"]:
        cells = [
            cell(words.spent(name, arm["ledger"][name]) if name in arm["ledger"] else "")
            for name in columns
        ]
        body.append(row(arm["name"], hues[arm["name"]], cells))
    return grid(["arm", *map(words.column, columns)], body, "ledger")
