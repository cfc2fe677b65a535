"""A whole step of training, ours against TRL's: `python -m benchmarks.step`.

Rollout, reward, scoring, loss, gradients and AdamW, on a random Qwen3 of 4 layers and 256 numbers
with a small and a large vocabulary: 32 completions of 64 tokens after prompts of 32, in float32.

GRPO    `GRPOTrainer`: 8 completions of a prompt, loss_type "grpo", no reference.
OPSD    `SDFTTrainer` (experimental): reverse KL over the whole vocabulary to the live weights that
        also read the solution, of 32 tokens. Sampled once for each prompt.
OPD     `DistillationTrainer`: the same divergence to another, frozen model, which reads what the
        student reads. TRL's divergence is chunked here, as ours is, while that of OPSD is not.

Settled so that both do the same: a constant learning rate, no gradient checkpointing, problems in
the given order, TRL's importance weight in OPSD off. What is left: TRL takes each row's mean
first in OPSD, the same where lengths are equal; ours also grades in OPSD and OPD, and keeps the
log-probability of each token.
Prompts and completions have one length, so that neither side pads; ours gains where they have not.

Every repeat of a side is a process of its own, the sides take turns, and the first step of each is
a rehearsal. Time is that of the processor with one thread, on the clock with several; memory is the
peak resident size above that before the first step. The exit code is 1 where a side drew another
number of tokens, a loss or gradient is not finite, or the divergences of the first step differ.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodidact.statistics import percentiles
from benchmarks.apart import measured, settle
from benchmarks.measuring import free
from benchmarks.step_worker import PEERS, Case, command
from benchmarks.table import Row, machine, show, write

SIDES = ("ours", "TRL")
TOLERANCE = 0.25
"""Largest relative difference of the first step's divergences, of the same weights on other
samples. Seen: 0.03."""
BUFFERS = 15
"""How many tensors of all logits a side may need: a process that would not fit is not started."""
QUICK = {"hidden": 64, "layers": 1, "prompt": 8}

Found = dict[str, Any]
Runner = Callable[[Case], Found]


def apart(case: Case) -> Found:
    """Measures in a fresh process."""
    if (needed := BUFFERS * case.rows * case.length * case.words * 4) > free("cpu"):
        return {"skipped": f"it may need {needed / 2**30:.1f} GiB"}
    return measured(command(case), case.threads)


def explore(setting: Case, repeats: int, run: Runner) -> dict[str, list[Found]] | None:
    """What each side saw in each repeat; `None`, with the reason told, if one could not run."""
    seen: dict[str, list[Found]] = {side: [] for side in SIDES}
    for turn in range(repeats):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            found = run(replace(setting, side=side, seed=turn))
            if "skipped" in found:
                print(f"  skipped: {side}: {found['skipped']}", flush=True)
                return None
            seen[side].append(found)
    return seen


def complaints(setting: Case, seen: dict[str, list[Found]]) -> Iterator[str]:
    """Where the sides did not do the same."""
    for side, found in seen.items():
        for step in (step for each in found for step in (each["first"], *each["steps"])):
            if round(step["tokens"]) != setting.rows * setting.length:
                yield f"{side} drew {step['tokens']:g} tokens"
            if not math.isfinite(step["loss"]) or not 0 < step["grad_norm"] < math.inf:
                yield f"{side}: loss {step['loss']}, norm of the gradient {step['grad_norm']}"
    if setting.method != "GRPO":
        ours, peer = (np.mean([each["first"]["loss"] for each in seen[side]]) for side in SIDES)
        if not abs(ours / peer - 1) < TOLERANCE:
            yield f"the divergence of the first step is {ours:.4g} of ours, {peer:.4g} of TRL"


def interval(ours: np.ndarray, peer: np.ndarray) -> tuple[float, float]:
    """95% of ours / peer, medians of `[repeats, steps]`, by a bootstrap over both."""
    generator = np.random.default_rng(0)
    repeats, steps = ours.shape
    row = generator.integers(repeats, size=(4000, repeats, 1))
    column = generator.integers(steps, size=(4000, repeats, steps))
    one, two = (np.median(values[row, column], axis=(1, 2)) for values in (ours, peer))
    return percentiles(one / two)


def report(setting: Case, seen: dict[str, list[Found]]) -> list[Row]:
    """Steps a second and memory, each with its interval printed."""
    title = f"{setting.method}, V={setting.words}"
    clock, words = ("cpu", "CPU second") if setting.threads == 1 else ("wall", "second")
    rates, sizes = {}, {}
    for side, found in seen.items():
        rates[side] = 1 / np.array([[step[clock] for step in each["steps"]] for each in found])
        sizes[side] = np.array([[each["bytes"] / 2**20] for each in found])
    peer = f"TRL {metadata.version('trl')} {PEERS[setting.method]}"
    rows = []
    for name, values in ((f"steps / {words}", rates), ("peak MiB", sizes)):
        one, two = (float(np.median(values[side])) for side in SIDES)
        rows.append(Row(f"{title}: {name}", one, two, peer))
        low, high = interval(*(values[side] for side in SIDES))
        print(f"  {name}: ours / TRL {rows[-1].ratio:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    first = ", ".join(f"{side} {found[0]['first']['loss']:.4g}" for side, found in seen.items())
    norms = ", ".join(f"{s} {found[0]['first']['grad_norm']:.4g}" for s, found in seen.items())
    taken = ", ".join(f"{side} {1 / np.median(rates[side]):.3g}" for side in SIDES)
    print(f"  {words}s a step: {taken}; first loss: {first}; its gradient: {norms}", flush=True)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about, _, _ = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=about)
    add = parser.add_argument
    add("--words", type=int, nargs="+", metavar="V", help="default 4096 151936")
    add("--rows", type=int, metavar="B", help="completions of a step (default 32)")
    add("--length", type=int, metavar="T", help="tokens of each (default 64)")
    add("--steps", type=int, help="of each process, after the first (default 5)")
    add("--repeats", type=int, help="processes of each side (default 5)")
    add("--methods", nargs="+", choices=tuple(PEERS), default=list(PEERS))
    add("--threads", type=int, default=1, help="of each process (default 1)")
    add("--quick", action="store_true", help="small: 4 completions of 8 tokens, 512 words")
    add("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    full = {"words": [4096, 151_936], "rows": 32, "length": 64, "steps": 5, "repeats": 5}
    quick = {"words": [512], "rows": 4, "length": 8, "steps": 1, "repeats": 1}
    return settle(options, full, quick)


def main(arguments: Sequence[str] | None = None, run: Runner = apart) -> int:
    """Exit code 1 where the sides did not do the same, or nothing was measured."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    print(machine("trl", "accelerate"))
    print(f"{options.rows} x {options.length} tokens, seeds 0 to {options.repeats - 1}")
    rows: list[Row] = []
    wrong: list[str] = []
    for words in options.words:
        for method in options.methods:
            setting = Case(
                "", method, words, options.rows, options.length, steps=options.steps,
                threads=options.threads, **(QUICK if options.quick else {}),
            )  # fmt: skip
            print(f"{method}, V={words}", flush=True)
            seen = explore(setting, options.repeats, run)
            if seen is None:
                continue
            rows += report(setting, seen)
            for complaint in complaints(setting, seen):
                wrong.append(complaint)
                print(f"  wrong: {complaint}", flush=True)
            if options.json is not None:
                write(options.json, rows)
    show(f"A whole step of {options.rows} x {options.length} tokens", rows)
    return int(bool(wrong) or not rows)


if __name__ == "__main__":
    raise SystemExit(main())
