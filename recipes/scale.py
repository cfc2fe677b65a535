"""The tables of `docs/scale.md`: `python -m recipes.scale` prints them, from the formulas alone.

`python -m recipes.scale --write` puts them into the page. Nothing is measured here; what was, and
how far the formulas were off, is what `python -m recipes.scale_measured` prints.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from autodidact.lab import budget, work
from autodidact.lab.shapes import BASE, MODELS, Plan, Shape, numbers

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEP, PROMPT, LENGTH = 256, 512, 2048
"""Rows of a step over all ranks, tokens of a prompt, and of a completion."""
DRAWN, PIECE = 32, 4
"""Rows that a rank writes at a time at most, and those of one piece of its batch."""
RANK = 64
"""Of the adapter."""
FREE = 0.9
"""Share of a GPU's memory that is assumed to be of use."""
MACHINES = (work.H100, work.H200)
MOMENTS = ("loading", "drawing", "learning")


def plan(ranks: int, lora: int, spread: bool = True, recompute: bool = True) -> Plan:
    """The step above on so many ranks, with the frozen teacher that costs least.

    One rank spreads nothing.
    """
    own = -(-STEP // ranks)
    rows = min(PIECE, own)
    return Plan(
        ranks, spread and ranks > 1, lora, True, recompute, "off" if lora else "initial",
        rows * (PROMPT + LENGTH), rows * LENGTH, min(DRAWN, own), PROMPT, LENGTH,
    )  # fmt: skip


def kinds() -> Iterator[tuple[str, Shape, int]]:
    for name, shape in MODELS.items():
        yield f"{name}, dense", shape, 0
        yield f"{name}, LoRA {RANK}", shape, RANK


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gb(value: float) -> str:
    return f"{value / 1e9:.1f}"


def shapes() -> str:
    rows = []
    for name, s in MODELS.items():
        cells: list[object] = [name, s.layers, s.hidden, s.inner, s.heads, s.kv_heads, s.head_dim]
        cells += [s.words, "tied" if s.tied else "apart", f"{s.weights / 1e9:.2f}"]
        adapter = numbers(s, Plan(lora=RANK), "adapter")
        rows.append([*map(str, cells), f"{adapter / 1e9:.3f}"])
    head = ["model", "layers", "D", "F", "heads", "kv heads", "head_dim", "V", "head"]
    return table([*head, "weights, 1e9", f"adapter of rank {RANK}, 1e9"], rows)


def rest() -> str:
    rows = []
    for name, shape, lora in kinds():
        p = plan(1, lora)
        found = budget.resting(shape, p)
        cells = [found["weights"], found["moments"], found["teacher"]]
        cells += [budget.gradients(shape, p)]
        shares = [
            sum(budget.resting(shape, plan(n, lora)).values())
            + budget.gradients(shape, plan(n, lora))
            for n in (8, 64, 256)
        ]
        rows.append([name, *map(gb, [*cells, sum(cells), *shares])])
    head = ["GB", "weights", "moments", "teacher", "gradients", "all, on one", "a share of 8"]
    return table([*head, "of 64", "of 256"], rows)


def piece() -> str:
    rows = []
    for name, shape, lora in kinds():
        ways = [plan(8, lora, spread, again) for spread in (False, True) for again in (False, True)]
        cells = [budget.activations(shape, way) for way in ways]
        top = budget.head(shape, ways[-1])
        states = [top["head"], top["head's gradient"], top["logits"], top["states"]]
        rows.append([name, *map(gb, [*cells, budget.casts(shape, ways[0]), *states])])
    head = ["GB", "ddp", "ddp, recompute", "fsdp", "fsdp, recompute", "ddp: copies of weights"]
    return table([*head, "heads", "head's gradient", "logits", "states"], rows)


def moments(lora: bool) -> str:
    rows = []
    for name, shape, rank in kinds():
        if bool(rank) != lora:
            continue
        plans = [plan(n, rank) for n in RANKS]
        layers = [replace(each, gather="layers") for each in plans]
        ways = [("loading", plans, "loading"), ("drawing", plans, "drawing")]
        ways += [("drawing, by layers", layers, "drawing"), ("learning", plans, "learning")]
        for kind, each, moment in ways:
            cells = [gb(budget.peaks(shape, one)[moment]) for one in each]
            rows.append([f"{name}: {kind}", *cells])
    return table(["GB of a rank, ranks", *map(str, RANKS)], rows)


def least(shape: Shape, plans: Sequence[Plan], room: float, *names: str) -> str:
    """The fewest ranks whose moments of these names fit."""
    for each in plans:
        found = budget.peaks(shape, each)
        if max(found[name] for name in names) <= room:
            return str(each.ranks)
    return "none"


def verdict() -> str:
    rows = []
    for name, shape, lora in kinds():
        plans = {name: [plan(n, lora) for n in RANKS]}
        if not lora:
            alone = [replace(each, teacher="none") for each in plans[name]]
            plans[f"{name}, no teacher"] = alone
        for kind, each in plans.items():
            layers = [replace(one, gather="layers") for one in each]
            for machine in MACHINES:
                room = FREE * machine.bytes
                cells = [machine.name.split(" (")[0], gb(budget.reading(shape, each[0]))]
                cells += [least(shape, each, room, m) for m in ("loading", "drawing", "learning")]
                cells += [least(shape, ways, room, *MOMENTS) for ways in (each, layers)]
                rows.append([kind, *cells])
    head = ["model", "GPU", "first host, GB", "loading fits from", "drawing", "learning"]
    return table([*head, "all of it", "all, by layers"], rows)


def transfer() -> str:
    rows = []
    for name, shape, lora in kinds():
        size = work.transfer(shape, lora, True)
        seconds = [f"{size / rate:.1f}" for rate in (1e9, 10e9, 50e9)]
        adapter = gb(4 * numbers(shape, plan(1, lora), "adapter")) if lora else ""
        rows.append([name, gb(size), *seconds, gb(2 * numbers(shape, Plan(), *BASE)), adapter])
    head = ["model", "GB", "s at 1 GB/s", "s at 10 GB/s", "s at 50 GB/s", "GB, were it bf16"]
    return table([*head, "GB, were it the adapter"], rows)


def scoring() -> str:
    rows, machine = [], work.H100
    tokens, asked = STEP * (PROMPT + LENGTH), STEP * LENGTH
    for name, shape, lora in kinds():
        p, half = plan(8, lora), (PROMPT + LENGTH) / 2
        alone = Plan(lora=lora)
        student = work.training(shape, p, tokens, half) + work.vocabulary(shape, alone, asked)
        teacher = work.reading(shape, 0, tokens, half) + 2 * asked * shape.vocabulary
        cells = [f"{each / 1e15:.1f}" for each in (student, teacher)]
        cells += [f"{teacher / (student + teacher):.0%}"]
        cells += [f"{each / machine.operations / machine.used:.0f}" for each in (student, teacher)]
        rows.append([name, *cells])
    head = ["model", "student, 1e15", "teacher, 1e15", "teacher's share"]
    return table([*head, "student, GPU seconds", "teacher, GPU seconds"], rows)


def seconds() -> str:
    rows, machine = [], work.H100
    for name, shape, lora in kinds():
        for ranks in (8, 32, 256):
            p, own = plan(ranks, lora), STEP // ranks
            tokens, half = own * (PROMPT + LENGTH), (PROMPT + LENGTH) / 2
            many = work.training(shape, p, tokens, half) + work.reading(shape, 0, tokens, half)
            many += work.vocabulary(shape, p, own * LENGTH)
            pieces = -(-own // PIECE)
            sent = work.gathering(shape, p, pieces, pieces)
            draws = work.writing(shape, p, machine) * -(-own // DRAWN)
            cells = [draws, many / machine.operations / machine.used]
            layers = replace(p, gather="layers")
            each_token = LENGTH * -(-own // DRAWN)
            by_layers = work.gathering(shape, layers, pieces, pieces, each_token)["drawing"]
            cells += [each / machine.receiving(ranks) for each in (*sent.values(), by_layers)]
            rows.append([name, str(ranks), *(f"{each:.1f}" for each in cells)])
    head = ["s", "ranks", "drawing", "computing", "sending: learning", "sending: teacher"]
    return table([*head, "sending: to draw", "to draw by layers"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "shapes": shapes,
    "rest": rest,
    "piece": piece,
    "moments, dense": lambda: moments(False),
    "moments, LoRA": lambda: moments(True),
    "verdict": verdict,
    "transfer": transfer,
    "scoring": scoring,
    "seconds": seconds,
}


def written(text: str) -> str:
    """The page with these tables in it, each after the line `<!-- table: NAME -->`."""
    for name, make in TABLES.items():
        before, mark, after = text.partition(f"<!-- table: {name} -->\n\n")
        assert mark, f"the page has no place for {name}"
        rest = re.sub(r"\A(\|.*\n)*\n*", "", after)
        text = before + mark + make() + "\n\n" + rest
    return text


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        for name, make in TABLES.items():
            print(f"{name}\n\n{make()}\n")
