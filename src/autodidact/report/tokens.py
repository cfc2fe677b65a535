"""The data of the token view: every token of a few completions, with the signal it received.

A page carries it as text that cannot be markup: JSON, deflated, in base64. Probabilities are
rounded to a thousandth, so that 200 completions of 256 tokens fit in a page of 3 MB; where they
would not, fewer top words are kept, and the page says how many.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autodidact.report.read import Record, document
from autodidact.report.words import is_number

SPACE = 2_200_000
"""Bytes of a page that the token view may fill."""

FEWEST = 3
"""Words shown of a law even if their probability rounds to nothing."""

Document = Mapping[str, Any]


def documents(record: Record) -> list[tuple[int, str, Document]]:
    """`(index of the arm, its name, tokens.json)`, of each arm's first seed that shows any."""
    found = []
    for index, arm in enumerate(record.arms):
        for seed in arm.seeds:
            path: Path = seed.folder / "tokens.json"
            if path.is_file() and (one := document(path))["problems"]:
                found.append((index, arm.name, one))
                break
    return found


def encode(found: Sequence[tuple[int, str, Document]], space: int = SPACE) -> tuple[str, list[str]]:
    """The token view's data in base64, and notes on what did not fit.

    Args:
        found: what `documents` returned.
        space: bytes that the result may take.
    """
    most = max(
        (
            len(token.get(side) or ())
            for _, _, one in found
            for token in tokens(one)
            for side in SIDES
        ),
        default=0,
    )
    problems = questions(found)
    notes = []
    for kept in (*range(most, 2, -2), 2, 1):
        text = pack(payload(found, problems, kept))
        if len(text) <= space:
            break
    while len(text) > space and len(problems) > 1:
        keep = max(1, int(len(problems) * space / len(text) * 0.97))
        problems = dict(list(problems.items())[:keep])
        text = pack(payload(found, problems, kept))
    if kept < most:
        notes.append(f"Of {most} top words {kept} are kept, so that this file stays small.")
    if len(problems) < len(questions(found)):
        notes.append(f"The first {len(problems)} of {len(questions(found))} problems are shown.")
    return text, notes


SIDES = ("student", "teacher")


def tokens(one: Document) -> list[Document]:
    return [token for problem in one["problems"] for token in problem["tokens"]]


def keyed(one: Document) -> dict[tuple[str, int], Document]:
    """Problems by question; one that is there twice, as several samples are, is told apart."""
    seen: Counter[str] = Counter()
    found = {}
    for problem in one["problems"]:
        question = problem["question"]
        found[question, seen[question]] = problem
        seen[question] += 1
    return found


def questions(found: Sequence[tuple[int, str, Document]]) -> dict[tuple[str, int], Document]:
    """The problems of all arms, each once, in the order of the arms that show them."""
    seen: dict[tuple[str, int], Document] = {}
    for _, _, one in found:
        for key, problem in keyed(one).items():
            seen.setdefault(key, problem)
    return seen


def payload(
    found: Sequence[tuple[int, str, Document]],
    problems: Mapping[tuple[str, int], Document],
    kept: int,
) -> Document:
    """What the page's script reads. Words are numbers into one list, the frequent ones first."""
    counts: Counter[str] = Counter()
    for _, _, one in found:
        for key, problem in keyed(one).items():
            if key in problems:
                for token in problem["tokens"]:
                    counts[token["text"]] += 1
                    for side in SIDES:
                        counts.update(word for word, _ in (token.get(side) or ())[:kept])
    vocabulary = [word for word, _ in counts.most_common()]
    ids = {word: index for index, word in enumerate(vocabulary)}

    def top(words: Sequence[Sequence[Any]] | None) -> list[int] | None:
        if words is None:
            return None
        shown = [pair for at, pair in enumerate(words[:kept]) if at < FEWEST or pair[1] >= 0.0005]
        return [part for word, p in shown for part in (ids[word], round(1000 * p))]

    def completion(problem: Document) -> Document:
        row = problem["tokens"]
        return {
            "correct": problem["correct"],
            "text": [ids[token["text"]] for token in row],
            "signal": [rounded(token["signal"]) for token in row],
            "logp": [rounded(token["logp"]) for token in row],
            "teacher_logp": [rounded(token.get("teacher_logp")) for token in row],
            "student": [top(token["student"]) for token in row],
            "teacher": [top(token.get("teacher")) for token in row],
        }

    arms = []
    for index, name, one in found:
        own = keyed(one)
        signed = any((token["signal"] or 0) < 0 for token in tokens(one))
        arms.append(
            {
                "name": name,
                "hue": index,
                "signal": one["signal"],
                "unit": one["unit"],
                "reader": one.get("teacher") or "teacher",
                "signed": signed or one["signal"] == "advantage",
                "scale": scale([other for _, _, other in found if same_kind(other, one)]),
                "problems": [completion(own[key]) if key in own else None for key in problems],
            }
        )
    parts = ("question", "solution", "answer")
    heads = [{part: problem[part] for part in parts} for problem in problems.values()]
    return {"words": vocabulary, "problems": heads, "arms": arms}


def same_kind(one: Document, other: Document) -> bool:
    return (one["signal"], one["unit"]) == (other["signal"], other["unit"])


def scale(shown: Sequence[Document]) -> float:
    """The signal that gets the strongest colour: the 99th percentile of its size; 0 if all is 0.

    Arms with the same kind of signal share it, so that their colours can be compared.
    """
    signals = (token["signal"] for one in shown for token in tokens(one))
    sizes = sorted(abs(signal) for signal in signals if is_number(signal))
    if not sizes or sizes[-1] == 0:
        return 0.0
    # A signal so sparse that its 99th percentile is zero is scaled by its maximum.
    return sizes[int(0.99 * (len(sizes) - 1))] or sizes[-1]


def rounded(value: float | None) -> float | str | None:
    """Three digits; what is not finite, JSON can only say as text."""
    if value is None or not math.isfinite(value):
        return None if value is None else str(value)
    return float(f"{value:.3g}")


def pack(data: Document) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode("ascii")
