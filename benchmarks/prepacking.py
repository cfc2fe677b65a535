"""Reading rows of real lengths without their padding: `python -m benchmarks.prepacking`.

Seconds of scoring a batch of prompts with their completions, and of going back through it, with
lengths as they are in practice:

GSM8K      questions and worked answers (`gsm8k_lengths.json`)
long tail  the same questions; completions log-normal with median 150 and sigma 1, 8 to 1,536

ours             packed into one row, attention inside documents
padded           one rectangle, by the same library with packing off
sorted           rows in order of length, in rectangles of a quarter of the rows each
transformers     its padding-free path: one row, positions that start anew (what
                 `DataCollatorWithFlattening` feeds); under SDPA a mask of the whole row squared
bound            as many tokens in rows of equal length: see `benchmarks.scoring`

At last prompts are read for generation, keys and values of all in one cache: `prefill` packed,
against the same with padding. All ways must agree in losses and gradients, or the benchmark fails.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from autodidact.batch import Batch
from autodidact.engines import prefill
from autodidact.models import Models
from autodidact.pack import packed
from autodidact.scores import Scores
from autodidact.view import plain
from benchmarks import scoring
from benchmarks.measuring import timed
from benchmarks.scoring import Group, Measured, Piece, Report
from benchmarks.table import machine

REAL = Path(__file__).with_name("gsm8k_lengths.json")
MEDIAN, SIGMA, LEAST, MOST = 150, 1.0, 8, 1536
QUARTERS = 4
PROMPTS = 4
"""Times as many prompts are read for generation as rows are scored."""


def real_lengths() -> list[tuple[int, int]]:
    """Tokens of questions and of answers."""
    return [(p, s) for p, s in json.loads(REAL.read_text(encoding="utf-8"))["lengths"]]


def drawn(kind: str, rows: int, seed: int) -> list[Group]:
    """Lengths of one batch."""
    choose = random.Random(seed)
    groups: list[Group] = []
    for prompt, answer in choose.sample(real_lengths(), rows):
        if kind == "long tail":
            answer = round(MEDIAN * choose.lognormvariate(0, SIGMA))
            answer = min(max(answer, LEAST), MOST)
        groups.append((prompt, [answer]))
    return groups


def by_length(models: Models, rows: Batch) -> Iterator[Piece]:
    """Rectangles of rows of like lengths."""
    models.pack = False
    order = rows.real.sum(1).argsort(stable=True).tolist()
    size = -(-len(order) // QUARTERS)
    for start in range(0, len(order), size):
        piece = rows.select(order[start : start + size])
        yield models.score(plain(piece), piece), piece


def flattened(models: Models, rows: Batch) -> Iterator[Piece]:
    """One row that transformers takes apart by its positions."""
    lm = models.policy
    fed = packed(plain(rows))
    trunk = lm.base.base_model
    hidden = trunk(input_ids=fed.ids, position_ids=fed.position, use_cache=False)
    asked, states = fed.asked, hidden.last_hidden_state.flatten(0, 1)
    weight = rows.take("weight")[asked]
    found = Scores(states[fed.at[asked]], lm.head(), asked, rows.ids[asked], weight=weight)
    yield found, rows


WAYS: dict[str, scoring.Way] = {
    "ours": scoring.packed, "padded": scoring.padded, "sorted": by_length,
    "transformers": flattened,
}  # fmt: skip


def prefilled(models: Models, batches: Sequence[Sequence[Group]]) -> Measured:
    """Prompts of these lengths read into one cache, packed and padded."""
    found, lm = Measured(), models.policy
    clock = 1 if torch.get_num_threads() > 1 else 2

    def lists(groups: Sequence[Group]) -> list[list[int]]:
        rows = scoring.batch([(p, [1]) for p, _ in groups], 0)
        return [ids[real][:-1].tolist() for ids, real in zip(rows.ids, rows.real, strict=True)]

    def off(lm, view):
        return view

    for number, groups in enumerate(batches):
        needed = sum(p for p, _ in groups)
        length = round(sum(p * p for p, _ in groups) / needed)
        even = [(length, [1])] * max(1, round(needed / length))
        ways = {"ours": (groups, None), "padded": (groups, off), "bound": (even, off)}
        if not number:
            one = prefill.prefill(lm, lists(groups)).hidden
            with patch.object(prefill, "lean", off):
                two = prefill.prefill(lm, lists(groups)).hidden
            assert (one - two).norm() < scoring.TOLERANCE * two.norm(), "prefill differs"
        for name, (given, lean) in ways.items():
            prompts = lists(given)
            with patch.object(prefill, "lean", lean or prefill.lean):
                taken = timed("cpu", partial(prefill.prefill, lm, prompts))[clock]
            read = sum(map(len, prompts))
            fed = read if name == "ours" else len(prompts) * max(map(len, prompts))
            found.seconds.setdefault(name, []).append(1000 * taken / read)
            found.share.setdefault(name, []).append(read / fed)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = scoring.options("prepacking", __doc__)
    parser.add_argument("--rows", type=int, default=16, help="of a batch (default 16)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.hidden, options.rows, options.repeats, options.layers = [128], 4, 2, 1
    torch.set_num_threads(options.threads)
    print(machine())
    print(f"{options.rows} rows a batch, {options.repeats} batches, {options.layers} layers")
    report = Report()
    for hidden in options.hidden:
        models = scoring.model(hidden, options.layers)
        for kind in ("GSM8K", "long tail"):
            batches = [drawn(kind, options.rows, seed) for seed in range(options.repeats)]
            report.compare(kind, models, WAYS, batches, shares=hidden == options.hidden[0])
        batches = [drawn("GSM8K", PROMPTS * options.rows, seed) for seed in range(options.repeats)]
        found = prefilled(models, batches)
        report.add(f"GSM8K questions, D={hidden}, prefill", found)
        if hidden == options.hidden[0]:
            report.shares("GSM8K questions, prefill", found)
    scoring.finish("Scoring rows of real lengths", report, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
