"""Scoring groups whose prompt is read once: `python -m benchmarks.shared_prefix`.

Seconds of scoring the completions of one prompt, and of going back through them:

long prompt   600 tokens, with 8 and with 16 completions of 100 tokens each
GSM8K         2 groups of 8: a real question, completions as long as real worked answers

ours      packed, each prompt once
packed    without padding, every row with a copy of its prompt
padded    one rectangle
bound     each prompt once and the completions, P + sum(s) tokens with as many pairs of attention
          as they must read, in rows of equal length: see `benchmarks.scoring`

All ways must agree in losses and gradients, or the benchmark fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch

from autodidact import pack
from autodidact.batch import Batch
from autodidact.models import Models
from autodidact.view import plain
from benchmarks import scoring
from benchmarks.prepacking import real_lengths
from benchmarks.scoring import Group, Piece, Report
from benchmarks.table import machine

LONG, SHORT = 600, 100


def groups(kind: str, seed: int) -> list[Group]:
    """Lengths of one batch; a number is the size of the one group with the long prompt."""
    if kind.isdigit():
        return [(LONG, [SHORT] * int(kind))]
    choose, lengths = random.Random(seed), real_lengths()
    questions = [p for p, _ in choose.sample(lengths, 2)]
    return [(p, [s for _, s in choose.sample(lengths, 8)]) for p in questions]


def apart(models: Models, rows: Batch) -> Iterator[Piece]:
    """Packed, with nothing shared."""
    yield models.score(pack.packed(plain(rows)), rows), rows


WAYS: dict[str, scoring.Way] = {
    "ours": scoring.packed, "packed": apart, "padded": scoring.padded
}  # fmt: skip
CASES = {
    "8 of 600 + 100 tokens": "8", "16 of 600 + 100 tokens": "16", "GSM8K, 2 groups of 8": "GSM8K"
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    options = scoring.options("shared_prefix", __doc__).parse_args(arguments)
    cases = CASES
    if options.quick:
        options.hidden, options.repeats, options.layers = [128], 2, 1
        cases = {name: kind for name, kind in CASES.items() if kind != "16"}
    torch.set_num_threads(options.threads)
    print(machine())
    print(f"{options.repeats} batches, {options.layers} layers")
    report = Report()
    for hidden in options.hidden:
        models = scoring.model(hidden, options.layers)
        for title, kind in cases.items():
            batches = [groups(kind, seed) for seed in range(options.repeats)]
            report.compare(title, models, WAYS, batches, shares=hidden == options.hidden[0])
    scoring.finish("Scoring groups of completions of one prompt", report, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
