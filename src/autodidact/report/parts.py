"""The prose parts of the page: how it was made, diagnoses, the token view's frame, samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from autodidact.report import html, tokens, words
from autodidact.report.html import note, text
from autodidact.report.read import Record, lines

MOST_SAMPLES = 60
LONGEST_SAMPLE = 2000
MARKS = {
    True: ("right", "\N{CHECK MARK}"),
    False: ("wrong", "\N{BALLOT X}"),
    None: ("quiet", "\N{EN DASH}"),
}
SIGNALS = {
    "divergence": "how far the teacher, who reads the solution, is from the student at that token",
    "advantage": "by how much the completion is pushed up or down",
    "negative log-likelihood": "how much the token surprises the student who is to learn it",
}
USE = (
    "Each token that an arm learns from is coloured by the signal it received; the strip below "
    "repeats it as heights, on a straight scale. Point at a token, tap it, or move with the arrow "
    "keys to see what student and teacher would have written there."
)
FRAME = """
<noscript><p class="note">This view needs JavaScript; it is part of this file and loads nothing.</p>
</noscript>
<div id="token-view" hidden>
<div class="bar">
<button type="button" data-step="-1" aria-label="previous problem">&larr;<span> previous</span>
</button>
<select aria-label="problem"></select>
<button type="button" data-step="1" aria-label="next problem"><span>next </span>&rarr;</button>
</div>
<div class="asked">
<pre class="question"></pre>
<details class="solution"><summary class="quiet">what the teacher also reads
(answer <span class="answer"></span>)</summary><pre></pre></details>
</div>
<div class="stage"></div>
</div>"""
CARRIER = """<div id="token-panel" class="panel" role="status" aria-live="polite" hidden></div>
<script type="text/plain" id="token-data">{data}</script>"""


def how(summary: Mapping[str, Any]) -> str:
    """How the table was made."""
    said = (
        "Accuracies in percent, at the last evaluation. Below each value its "
        f"{summary['level']:.0%} interval: a bootstrap of {summary['draws']} draws over problems "
        "and seeds, paired between arms; lengths, entropies and whatever is one number a seed vary "
        "over seeds only. A difference is bold if its interval excludes zero"
    )
    many = len(summary["arms"]) > 1
    said += "; several are looked at, and no correction is made for that. " if many else ". "
    said += "With few seeds an interval is too narrow where seeds differ much."
    if summary["checkpoint"] != "last":
        said += f" Checkpoint rule: {summary['checkpoint']} on validation."
    for name, budget in summary["matched"].items():
        column = words.column(summary["budget"]["column"])
        said += f" {name} spends no {column}: its budget is {budget}."
    return said + (
        f" Not evaluated yet: {', '.join(summary['waiting'])}." if summary["waiting"] else ""
    )


def reach(summary: Mapping[str, Any], hues: Mapping[str, int]) -> str:
    """The table of budgets to the target, and how to read it; nothing without a target."""
    target = summary["target"]
    if not target:
        return ""
    chosen = "" if target["rule"] == "stated" else f" (chosen after the fact: {target['rule']})"
    said = (
        f"What an arm had spent when its accuracy first met {100 * target['value']:.1f}%{chosen}, "
        "linear between evaluations, with its interval."
    )
    if len(summary["arms"]) > 1:
        said += (
            f" Below it, what {summary['reference']} had spent divided by what the arm had: above "
            '1 the arm needed less, "over" where only the arm arrived; bold if the interval '
            "excludes 1. An end that is not reached lies beyond the budget of the run."
        )
    return note(said) + html.reaches(summary, hues)


def facts(record: Record, summary: Mapping[str, Any]) -> str:
    """The line under the title."""
    call = record.call
    size = words.short(call["model"]["parameters"])
    said = [
        f"model {Path(str(call['model']['path'])).name}, {size} parameters",
        f"task {call['task']['name']}",
        f"seeds {', '.join(map(str, summary['seeds']))}",
    ]
    started = datetime.fromisoformat(call["started"])
    said.append(f"{started:%Y-%m-%d %H:%M}")
    if call["finished"]:
        seconds = (datetime.fromisoformat(call["finished"]) - started).total_seconds()
        said.append(f"took {words.spent('seconds', seconds)}")
    else:
        said.append("not finished")
    return f'<ul class="facts">{"".join(f"<li>{text(part)}</li>" for part in said)}</ul>'


def diagnosis(found: Mapping[str, Any]) -> str:
    """One thing that was wrong with the run, with its remedy."""
    place = [found["where"]] if found["where"] else []
    place += [f"first at step {found['step']}"] if found["step"] is not None else []
    where = f' <span class="quiet">{text(", ".join(place))}</span>' if place else ""
    head = f"<strong>{text(found['what'])}{where}</strong>"
    return (
        f'<div class="diagnosis {text(found["level"])}" role="note">{head}'
        f"<p>{text(found['why'])} {text(found['remedy'])}</p></div>"
    )


def token_view(record: Record) -> tuple[str, str]:
    """The token view's frame, and the elements that carry its panel and its data."""
    found = tokens.documents(record)
    if not found:
        return "", ""
    data, notes = tokens.encode(found)
    signals = " ".join(dict.fromkeys(one["signal"] for _, _, one in found))
    told = [f"{name}: {meaning}" for name, meaning in SIGNALS.items() if name in signals]
    said = f"{'; '.join(told).capitalize()}. " if told else ""
    return note(f"{said}{USE} {' '.join(notes)}") + FRAME, CARRIER.format(data=data)


def samples(record: Record) -> str:
    """The last completions of each arm's first seed, in a fold."""
    found = []
    many = len(record.arms) > 1
    for arm in (arm for arm in record.arms if arm.seeds):
        drawn = lines(arm.seeds[0].folder / "samples.jsonl")
        for line in drawn[-(MOST_SAMPLES // len(record.arms)) :]:
            kind, mark = MARKS[line["correct"]]
            said, cut = line["completion"], len(line["completion"]) - LONGEST_SAMPLE
            if cut > 0:
                said = f"{said[:LONGEST_SAMPLE]}\n[{cut} more characters are in samples.jsonl]"
            head = f"{arm.name}, step {line['step']}" if many else f"step {line['step']}"
            found.append(
                f'<div class="sample"><p><span class="mark {kind}">{mark}</span> '
                f'<span class="quiet">{text(head)}</span></p>'
                f"<pre>{text(line['question'])}</pre><pre>{text(said)}</pre></div>"
            )
    if not found:
        return ""
    title = f"{words.count(len(found), 'completion')} drawn while training"
    return f"<details><summary>{title}</summary>{''.join(found)}</details>"


def called(record: Record) -> str:
    """The resolved call, as it was written."""
    shown = json.dumps(record.call, indent=2, ensure_ascii=False)
    fold = "<details><summary>run.json, as the run wrote it</summary>"
    return f'{fold}<pre class="call">{text(shown)}</pre></details>'
