"""What caches and parallel decoding save in masked diffusion: `python -m benchmarks.denoise`.

sudoku   4x4 grids with 8 empty cells, written in place by a shipped model, greedily. The grids are
         held out: the model has not seen them, nor any other puzzle with their solutions.
speed    a random Qwen3 of 4 layers that reads both ways writes a canvas of 128 places, in four
         blocks, after a prompt of 64 tokens

plain    a loop written here: transformers' model reads the whole canvas, and the surest word is
         kept, one a step
fast     the method of Fast-dLLM, run again here: dual cache, threshold 0.9, blocks of 8
ours     (sudoku) of `CANDIDATES`, without blocks, the one with the fewest calls that on training
         puzzles is right as often as plain, or in `--give` less of them; (speed) each cache with
         one word a step, then with four

A call is a reading of one canvas, whole or in part. Intervals of accuracy are Wilson's, of
differences a bootstrap's, paired over puzzles; both at 95%.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from autodidact.engine import Engine, Request
from autodidact.engines.cached import Cached
from autodidact.engines.denoise import ROWS, Denoise
from autodidact.law import Law
from autodidact.model import LM, load
from autodidact.problem import Problem
from autodidact.statistics import difference, resample
from autodidact.tasks.sudoku import sudoku
from benchmarks.measuring import timed
from benchmarks.random_model import WORDS, Silent, random_qwen
from benchmarks.table import Row, machine, show, write

GREEDY = Law(temperature=0)
CANDIDATES: tuple[Denoise, ...] = (
    *(Denoise(threshold=t, order="confidence") for t in (0.9, 0.95, 0.96, 0.97, 0.98, 0.99)),
    *(Denoise(threshold=t, order="margin") for t in (0.9, 0.93, 0.95, 0.96, 0.965, 0.97, 0.975)),
    *(Cached(cache="none", factor=f) for f in (0.1, 0.2, 0.4)),
    *(Denoise(steps=k, order="margin") for k in (2, 3, 4, 8)),
)
PROMPT = 64


class Done(NamedTuple):
    """Canvases that were written, the canvases and tokens read for it, and seconds."""

    ids: list[list[int]]
    calls: int
    read: int
    seconds: float = 0.0


Side = Callable[[LM, Sequence[Request]], Done]


@torch.no_grad()
def plain(lm: LM, requests: Sequence[Request]) -> Done:
    """One word a step, the surest first, each after a reading of everything. No padding."""
    found, calls, read = [], 0, 0
    for i in range(0, len(requests), ROWS):
        some = requests[i : i + ROWS]
        written = [[*r.prompt, *(r.canvas or [None] * r.length)] for r in some]
        ids = torch.tensor([[lm.mask if word is None else word for word in row] for row in written])
        hidden = torch.tensor([[word is None for word in row] for row in written])
        while hidden.any():
            law = lm.model(ids, use_cache=False).logits.softmax(-1)
            law[..., lm.mask] = 0
            sure, words = law.max(-1)
            best = torch.where(hidden, sure, -1.0).argmax(1)
            row = hidden.any(1).nonzero().squeeze(1)
            ids[row, best[row]] = words[row, best[row]]
            hidden[row, best[row]] = False
            calls, read = calls + len(row), read + len(row) * ids.shape[1]
        found += [line[len(r.prompt) :] for line, r in zip(ids.tolist(), some, strict=True)]
    return Done(found, calls, read)


def engine(made: Engine) -> Side:
    """An engine as a side."""

    def call(lm: LM, requests: Sequence[Request]) -> Done:
        drawn = made.draw(lm, requests, GREEDY, 0)
        return Done([c.ids for c in drawn.completions], drawn.calls, drawn.read)

    return call


def run(side: Side, lm: LM, requests: Sequence[Request]) -> Done:
    """Seconds of the processor with one thread, of the clock with several."""
    done, wall, cpu = timed("cpu", lambda: side(lm, requests))
    return done._replace(seconds=cpu if torch.get_num_threads() == 1 else wall)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): where the true share is, z standard errors away at most.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    """
    share = right / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    return (middle - half) / whole, (middle + half) / whole


def grids(lm: LM, problems: Sequence[Problem]) -> list[Request]:
    words = {str(cell): lm.encode(str(cell))[0] for cell in range(1, 5)}
    return [
        Request((), 0, 16, canvas=tuple(words.get(cell) for cell in problem.meta["puzzle"]))
        for problem in problems
    ]


def exact(lm: LM, done: Done, problems: Sequence[Problem]) -> np.ndarray:
    """Which grids are right in every cell."""
    pairs = zip(done.ids, problems, strict=True)
    return np.array([float(lm.decode(ids) == problem.answer) for ids, problem in pairs])


def chosen(lm: LM, problems: Sequence[Problem], gives: Sequence[float]) -> dict[float, Denoise]:
    """For each share of puzzles that may be lost the candidate with the fewest calls."""
    asked = grids(lm, problems)
    most = exact(lm, plain(lm, asked), problems).mean()
    done = [(made, engine(made)(lm, asked)) for made in CANDIDATES]
    fewest = sorted(done, key=lambda pair: pair[1].calls)
    losses = [(made, most - exact(lm, each, problems).mean()) for made, each in fewest]
    return {give: next(made for made, loss in losses if loss <= give) for give in gives}


def said(made: Denoise) -> str:
    """The rule of a candidate, briefly."""
    factor = made.factor if isinstance(made, Cached) else None
    rule = {"steps": made.steps, f"least {made.order}": made.threshold, "factor": factor}
    return ", ".join(f"{name} {value}" for name, value in rule.items() if value is not None)


def solved(name: str, puzzles: int, empties: int, gives: Sequence[float]) -> list[Row]:
    """Accuracy, calls and speed on held-out puzzles."""
    lm = load(name, device="cpu")
    task = sudoku(empties=empties, wording="terse", train=puzzles, test=puzzles, canvas=True)
    fast = Cached(cache="dual", threshold=0.9, block=8)
    sides: dict[str, Side] = {"plain": plain, "fast: dual cache, 0.9, blocks of 8": engine(fast)}
    for give, made in chosen(lm, task.train, gives).items():
        sides[f"ours, gives {give:.1%}: {said(made)}"] = engine(made)
    asked, draws = grids(lm, task.test), resample(1, puzzles, np.random.default_rng(0))
    done = {side: run(call, lm, asked) for side, call in sides.items()}
    right = {side: exact(lm, each, task.test) for side, each in done.items()}
    for side, each in done.items():
        low, high = wilson(int(right[side].sum()), puzzles)
        loss = difference(right[side][None], right["plain"][None], draws)
        print(
            f"{name}, {side}: exact {right[side].mean():.4f} [{low:.4f}, {high:.4f}], minus plain "
            f"{loss.value:+.4f} [{loss.low:+.4f}, {loss.high:+.4f}]; "
            f"{each.calls / puzzles:.3f} calls a grid, "
            f"{done['plain'].calls / each.calls:.2f} times fewer",
            flush=True,
        )
    rows = []
    for number, side in enumerate(list(sides)[2:]):
        for peer in list(sides)[:2]:
            pairs = {
                "exact": [right[each].mean() for each in (side, peer)],
                "calls / grid": [done[each].calls / puzzles for each in (side, peer)],
                "cells / s": [empties * puzzles / done[each].seconds for each in (side, peer)],
            }
            title = f"{name}, gives {gives[number]:.1%}"
            rows += [Row(f"{title}: {metric}", *pair, peer) for metric, pair in pairs.items()]
    return rows


def random_model(hidden: int, layers: int) -> LM:
    model = random_qwen(hidden, layers)
    model.config.is_causal, model.config.mask_token_id = False, 0
    return LM(model, Silent(), "random Qwen3")


def written(lm: LM, places: int, rows: int, repeats: int) -> list[Row]:
    """Words a second of canvases of a random model; the first repeat is a rehearsal."""
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, WORDS // 2, (rows, PROMPT), generator=random).tolist()
    asked = [Request(tuple(prompt), 0, places) for prompt in prompts]
    sides: dict[str, Side] = {"plain": plain}
    for words in (1, 4):
        for kind in ("none", "prefix", "dual", "free"):
            made = Cached(cache=kind, block=places // 4, steps=places // words)
            sides[f"{kind}, {words} a step"] = engine(made)
    found: dict[str, list[Done]] = {side: [] for side in sides}
    for _ in range(repeats + 1):
        for side, call in sides.items():
            found[side].append(run(call, lm, asked))
    rate = {
        side: places * rows / float(np.median([each.seconds for each in done[1:]]))
        for side, done in found.items()
    }
    table = []
    for side in list(sides)[1:]:
        ours, peer = found[side][0], found["plain"][0]
        table += [
            Row(f"{side}: tokens / s", rate[side], rate["plain"], "plain"),
            Row(f"{side}: calls", ours.calls, peer.calls, "plain"),
            Row(f"{side}: tokens read", ours.read, peer.read, "plain"),
        ]
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.denoise", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--models", nargs="+", default=["tiny_diffusion"], metavar="NAME")
    parser.add_argument("--puzzles", type=int, default=2000)
    parser.add_argument("--empties", type=int, default=8, help="empty cells of a grid")
    parser.add_argument(
        "--give", type=float, nargs="+", default=[0.0, 0.002, 0.01], metavar="SHARE"
    )
    parser.add_argument("--hidden", type=int, default=256, metavar="D")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--places", type=int, default=128)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few puzzles and a small model, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.puzzles, options.hidden, options.layers = 32, 64, 1
        options.places, options.repeats = 16, 1
    torch.set_num_threads(options.threads)
    print(machine())
    rows = []
    for name in options.models:
        rows += solved(name, options.puzzles, options.empties, options.give)
    lm = random_model(options.hidden, options.layers)
    rows += written(lm, options.places, options.rows, options.repeats)
    show("Writing canvases", rows)
    if options.json is not None:
        write(options.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
