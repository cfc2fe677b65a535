"""One self-contained HTML file for a run: nothing is loaded, nothing that a model wrote can run.

The page's policy is `default-src 'none'`; its one style sheet and its one script are allowed by
their hashes. There is no inline style and no event attribute.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from autodidact.report import curves, html, parts, prose, words
from autodidact.report.html import note, section, text
from autodidact.report.read import Record, read
from autodidact.report.summary import summarise


def report(directory: Path, summary: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html` into a run directory of kind `train` or `compare`, and return its path.

    Args:
        directory: the run directory.
        summary: what `summarise(directory)` returned, if it is at hand.

    Raises:
        ValueError: as `summarise`. A report that was there stays as it was.
    """
    record = read(directory)
    page = render(record, summarise(record.folder) if summary is None else summary)
    path = record.folder / "report.html"
    draft = path.with_name(f".report.html.{os.getpid()}")
    draft.write_text(page, encoding="utf-8", errors="replace")
    draft.replace(path)
    return path


def render(record: Record, summary: Mapping[str, Any]) -> str:
    """The page as text."""
    hues = {arm.name: index for index, arm in enumerate(record.arms)}
    title = prose.title(record.call)
    seeds = words.count(len(summary["seeds"]), "seed")
    view, data = parts.token_view(record)
    bands = f"Bands are {summary['level']:.0%} intervals over problems and {seeds}."
    until = "Spent until the last evaluation, mean over seeds."
    between = html.differences(summary, hues)
    sections = [
        (
            "Result",
            "result",
            html.results(summary, hues)
            + note(parts.how(summary))
            + (f"<h3>Differences between arms</h3>{between}" if between else ""),
        ),
        ("Tokens to reach", "reach", parts.reach(summary, hues)),
        ("Accuracy by cost", "accuracy", note(bands) + curves.accuracy(summary, hues)),
        ("What each token was told", "tokens", view),
        ("Side effects", "side", curves.side_effects(summary, hues)),
        ("Training", "training", curves.training(record, hues)),
        ("Ledger", "ledger", note(until) + html.ledger(summary, hues)),
        ("Samples", "samples", parts.samples(record)),
        ("Resolved call", "call", parts.called(record)),
    ]
    sections = [found for found in sections if found[2]]
    links = "".join(f'<a href="#{key}">{text(name)}</a>' for name, key, _ in sections)
    body = "\n".join(section(key, name, inner) for name, key, inner in sections)
    style, script = asset("style.css"), asset("view.js")
    policy = (
        f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{text(title)}</h1>
<p class="lede">{text(prose.reading(summary))}</p>
{parts.facts(record, summary)}
{"".join(map(parts.diagnosis, record.diagnoses))}
<nav aria-label="contents">{links}</nav>
</header>
{body}
</main>
{data}
<script>{script}</script>
</body>
</html>
"""


def asset(name: str) -> str:
    return files("autodidact.report").joinpath(name).read_text(encoding="utf-8")


def hashed(code: str) -> str:
    digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
