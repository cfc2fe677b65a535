"""The final table and the tokens-to-reach table, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autodidact.redact import printable
from autodidact.report import words
from autodidact.report.scored import TABLE

if TYPE_CHECKING:
    from rich.table import Table

ENDS = ("low", "high")
SHORT = {"student_backward": "backward", "optimizer_steps": "steps"}


def tables(summary: dict[str, Any]) -> list[Table]:
    """The final metrics, then the budgets to the target (left out if there is no target).

    An interval stands under its value, so that both tables fit 80 columns; with long names of arms
    lengths, entropies and seconds are left to the report.
    """
    found = [final(summary)]
    if summary["target"]:
        found.append(cost(summary))
    return found


def final(summary: dict[str, Any]) -> Table:
    """Every arm's final metrics with intervals, and the gain over the base model."""
    samples, primary = summary["samples"], summary["metric"]
    shown = [name for name in TABLE if any(arm["final"][name] for arm in summary["arms"])]
    shown = [name for name in shown if name not in unfit(summary)]
    table = blank(
        f"Held-out accuracy in %: {words.count(summary['problems'], 'problem')}, "
        f"{words.count(len(summary['seeds']), 'seed')}, {summary['level']:.0%} intervals"
    )
    heads = {"sampled": f"mean@{samples}", "pass@k": f"pass@{words.half(samples)}"}
    heads |= {"majority": f"maj@{samples}", "forgetting": "retained"}
    table.add_column("arm", overflow="fold", max_width=18)
    for name in shown:
        number_column(table, heads.get(name, name))
        if name == primary:
            number_column(table, "gain", style="bold")
    rows = [("base", summary["base"], None)] if summary["base"] else []
    rows += [(arm["name"], arm["final"], arm["gain"]) for arm in summary["arms"]]
    for label, values, gain in rows:
        cells = []
        for name in shown:
            cells.append(cell(name, values[name]))
            if name == primary:
                cells.append(cell(name, gain[name] if gain else None, signed=True))
        table.add_row(plain(label), *cells)
    said = "; ".join(f"{name}: its budget is {said}" for name, said in summary["matched"].items())
    table.caption, table.caption_justify = plain(said) if said else None, "left"
    return table


def cost(summary: dict[str, Any]) -> Table:
    """What each arm spent to reach the target, by ledger column, and its ratio to the reference."""
    target, reference = summary["target"], summary["reference"]
    known = dict.fromkeys(name for arm in summary["arms"] for name in arm["reach"])
    columns = [name for name in known if name not in unfit(summary)]
    title = f"Spent to reach {100 * target['value']:.1f}% ({target['rule']})"
    if len(summary["arms"]) > 1:
        title += f"; {words.TIMES}: {reference}'s over the arm's"
    table = blank(title)
    table.add_column("arm", overflow="fold", max_width=18)
    for name in columns:
        number_column(table, SHORT.get(name, name))
    for arm in summary["arms"]:
        cells = [brief(name, arm["reach"].get(name)) for name in columns]
        table.add_row(plain(arm["name"]), *map(plain, cells))
    return table


def brief(name: str, found: dict[str, Any] | None) -> str:
    """A budget, its interval, the ratio to the reference and its interval, a line each.

    "-": the arm spends none of it; ">120k": not reached within that; "never": an end of the
    interval that is not reached; "inf": a ratio without bound, the reference does not get there.
    """
    if found is None:
        return "-"
    value, low, high = found["value"], found["low"], found["high"]
    lines = [f">{words.spent(name, found['end'])}" if value is None else words.spent(name, value)]
    ends = ["never" if end is None else words.spent(name, end) for end in (low, high)]
    lines.append(f"{ends[0]}..{ends[1]}" if value is not None or low is not None else "never")
    ratio = found.get("ratio")
    if ratio is not None and ratio["case"] in ("reached", "reference not reached"):
        sign = ">" if ratio["case"] == "reference not reached" else ""
        lines.append(f"{sign}{words.times(ratio['at_least'])}{words.TIMES}")
        ends = ["inf" if ratio[end] is None else words.times(ratio[end]) for end in ENDS]
        if ratio["low"] is not None:
            lines.append(f"{ends[0]}..{ends[1]}")
    return "\n".join(lines)


def unfit(summary: dict[str, Any]) -> tuple[str, ...]:
    """Columns for which long names leave no room."""
    longest = max(len(arm["name"]) for arm in summary["arms"])
    return ("length", "entropy", "seconds") if longest > 6 else ()


def blank(title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=plain(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.title_justify = "left"
    return table


def number_column(table: Table, head: str, style: str = "") -> None:
    # Folded where it must be: a number that is cut short would be another number.
    table.add_column(head, justify="right", overflow="fold", style=style)


def cell(name: str, interval: dict[str, Any] | None, signed: bool = False) -> str:
    """A value over its interval in whole points; lengths and entropies without one, for room."""
    if interval is None:
        return "-"
    value = words.number(name, interval["value"], signed)
    if interval["low"] is None or name not in words.SHARES:
        return value
    low, high = (f"{100 * interval[end]:{'+' if signed else ''}.0f}" for end in ENDS)
    return f"{value}\n{low}..{high}"


def plain(text: str) -> Any:
    """Text that neither rich reads as markup nor a terminal as commands."""
    from rich.text import Text

    return Text(printable(text))
