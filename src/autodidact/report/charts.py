"""Line charts as inline SVG: drawn by matplotlib, coloured by the page.

matplotlib draws with stand-in colours; `inline` turns them into CSS variables, so that one SVG
suits light and dark pages, and every `style` into attributes, so that the page needs no permission
for inline styles. Text stays text.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autodidact.redact import printable
from autodidact.report.words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HUES = 8
MARKERS = "osD^vPXp"
INK, MUTED, RULE = "#fe1000", "#fe1001", "#fe1002"
INKS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
INKS |= {f"#fe00{hue:02x}": f"var(--arm-{hue})" for hue in range(HUES)}
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "autodidact", "font.family": "DejaVu Sans"}


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: written at its end if the chart has room for labels.
        hue: which of the page's accent colours.
        x, y: points.
        low, high: ends of the interval band; empty for none.
        faint: draw it thin and pale.
        marked: mark its points.
    """

    label: str
    hue: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    faint: bool = False
    marked: bool = True


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    value: float
    label: str


def chart(
    name: str,
    lines: Sequence[Line],
    *,
    alt: str,
    size: tuple[int, int],
    levels: Sequence[Level] = (),
    share: bool = False,
    limits: tuple[float, float] | None = None,
    room: int = 0,
) -> str:
    """A line chart as an `<svg>` element.

    Args:
        name: unique in the page; its ids start with it.
        lines: what to draw, the most important last.
        alt: what a screen reader says.
        size: width and height in CSS pixels at scale 1.
        levels: horizontal lines.
        share: write the vertical axis in percent.
        limits: of the vertical axis; from the data if not given.
        room: pixels kept at the right for labels at the lines' ends; 0 draws none.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width, height = size
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes(
            (42 / width, 24 / height, (width - 50 - room) / width, (height - 34) / height)
        )
        for line in lines:
            colour, marker = f"#fe00{line.hue % HUES:02x}", MARKERS[line.hue % len(MARKERS)]
            if len(line.low):
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.13, lw=0)
            axes.plot(
                line.x,
                line.y,
                color=colour,
                lw=0.9 if line.faint else 1.9,
                alpha=0.4 if line.faint else 1,
                marker=marker if line.marked else None,
                markersize=4,
                solid_capstyle="round",
                solid_joinstyle="round",
            )
        dress(axes, share)
        if limits:
            axes.set_ylim(*limits)
        for level in levels:
            axes.axhline(level.value, color=MUTED, lw=1, dashes=(3, 3), zorder=1)
        if room:
            ends(axes, lines, levels, height - 34)
        file = io.BytesIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    return inline(file.getvalue(), name, alt)


def dress(axes: Axes, share: bool) -> None:
    """Hairlines across, a baseline, few ticks, short numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=MUTED, pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(x=0.02)
    if share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def ends(axes: Axes, lines: Sequence[Line], levels: Sequence[Level], height: float) -> None:
    """Labels to the right of the lines' ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    marks = [(line.y[-1], line.label, f"#fe00{line.hue % HUES:02x}", "bold") for line in lines]
    marks += [(level.value, level.label, MUTED, "normal") for level in levels]
    marks.sort()
    heights = apart([(mark[0] - low) / (high - low) * height for mark in marks], gap=15)
    for (_, label, colour, weight), up in zip(marks, heights, strict=True):
        axes.annotate(
            printable(label),
            (1, up / height),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            fontsize=12 if weight == "bold" else 10.5,
            fontweight=weight,
            va="center",
            parse_math=False,
            annotation_clip=False,
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as needed to be `gap` apart (pooling, as in isotonic fits).

    Places that would touch become a block around their common mean.
    """
    blocks: list[tuple[float, int]] = []  # (sum of place - offset, count)
    for index, place in enumerate(places):
        total, size = place - index * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            before, many = blocks.pop()
            total, size = total + before, size + many
        blocks.append((total, size))
    starts = [total / size for total, size in blocks for _ in range(size)]
    return [start + index * gap for index, start in enumerate(starts)]


def inline(svg: bytes, name: str, alt: str) -> str:
    """An SVG file as an element for a page: no styles, own ids, the page's colours and fonts."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in [child for child in parent if child.tag == f"{SVG}style"]:
            parent.remove(child)
    used = set(re.findall(r"#(\w+)\)|#(\w+)\"", ElementTree.tostring(root, encoding="unicode")))
    kept = {one for pair in used for one in pair if one}
    for node in root.iter():
        node.tag = node.tag.removeprefix(SVG)
        for rule in filter(None, node.attrib.pop("style", "").split(";")):
            key, value = (part.strip() for part in rule.split(":", 1))
            if key != "font-family":
                node.set(key, INKS.get(value, value))
        if (own := node.attrib.pop("id", None)) in kept:
            node.set("id", f"{name}-{own}")
        if LINK in node.attrib:
            node.set("href", f"#{name}-{node.attrib.pop(LINK)[1:]}")
        if "clip-path" in node.attrib:
            node.set("clip-path", node.get("clip-path", "").replace("url(#", f"url(#{name}-"))
        if node.get("transform", "").startswith("rotate(-0 "):
            del node.attrib["transform"]
        if "d" in node.attrib:
            node.set("d", " ".join(node.get("d", "").split()))
        node.text, node.tail = (text and (text.strip() or None) for text in (node.text, node.tail))
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"class": "chart", "viewBox": box, "role": "img", "aria-label": alt}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    return ElementTree.tostring(root, encoding="unicode")
