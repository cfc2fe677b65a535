"""What token streams, ledger and report cost: `python -m benchmarks.overhead`.

run     `train` of the shipped tiny model, with all that it writes: streams of every token, ledger,
        metrics, samples, diagnoses, token view, report. Beside it a loop written here of the same
        parts without any of it: draw, grade, credit, weigh, score, backward, AdamW. Both evaluate
        once and write a checkpoint, at the end. Loading and the checks before are not timed.
shell   seconds from the shell to the first step of `autodidact train opsd`, with the evaluation
        before it (the default) and without
report  bytes of the report of 200 completions of 256 tokens, every one with a law of its own

The sides of `run` take turns, and the first turn of each is a rehearsal. The exit code is 1 where
they do not end with the same weights, bit for bit. Time is that of the processor with one thread,
on the clock with several; the shell's is shown both ways, on the clock and of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from autodidact import calls, checkpoint
from autodidact.calls import Call
from autodidact.evaluate import Evaluation
from autodidact.grade import grade
from autodidact.learn import credited, split
from autodidact.models import Models
from autodidact.report import report
from autodidact.session import Silent, execute
from autodidact.settings import specify, usual_options
from autodidact.spec import Spec, load_policy, make_task
from autodidact.statistics import percentiles
from autodidact.train import Training
from benchmarks.measuring import timed
from benchmarks.table import Row, machine, show, write

SHARE, SECONDS, BYTES = 1.05, 6.0, 3_000_000
"""What is promised at most: of a run, to the first step, of a report."""
WAIT = 300.0
"""Seconds that the first step is waited for."""


class Clock(Silent):
    """Notes when a run begins and ends, by both clocks."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def start(self, directory: Any, call: Any, examples: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def end(self, directory: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


def chosen(method: str, steps: int, rows: int | None, problems: int) -> Spec:
    """A run of the tiny model as the command line makes it, evaluated once, at its end."""
    usual = dict(usual_options({}))
    length = usual.pop("length")
    usual |= {"steps": steps, "eval_points": 0, "eval_problems": problems}
    usual |= {} if rows is None else {"rows": rows}
    return specify(Call(method, {"length": length}), usual)


def whole(spec: Spec, out: Path) -> tuple[float, float]:
    """Seconds of a run and its report, on the clock and of the processor."""
    clock = Clock()
    execute(spec, out, watcher=clock)
    (begun, busy), (ended, done) = clock.marks
    _, wall, cpu = timed("cpu", lambda: report(out))
    return ended - begun + wall, done - busy + cpu


def bare(spec: Spec, out: Path) -> tuple[float, float]:
    """The same of a loop of the parts; its checkpoint is written to `out`."""
    method, task = calls.make(calls.method, spec.method), make_task(spec)
    training = Training(method, Models(load_policy(spec)), task, spec.run)
    training.models.policy.render(task.prompt(task.train[0]))  # what the checks have warmed up

    def run() -> None:
        for _ in range(spec.run.steps or 0):
            step(training)
        held = list(task.test[: spec.run.eval_problems])
        Evaluation(task, held, spec.run.eval_samples, method.rollout.length)(training.models)
        checkpoint.save(training, out)

    _, wall, cpu = timed("cpu", run)
    return wall, cpu


def step(training: Training) -> None:
    """One update, and nothing that only tells of it."""
    method, models, optimizer = training.method, training.models, training.optimizer
    batch = grade(training.drawn(), models)
    for group in optimizer.param_groups:
        group["lr"] = training.rate()
    batch, before = credited(method, models, batch), models.ledger.optimizer_steps
    optimizer.zero_grad(set_to_none=True)
    for piece in split(method, batch, training.run.micro_rows):
        scores = models.scores(method.views(piece, models), piece)
        (method.loss(scores, piece) * piece.take("weight")).sum().backward()
    torch.nn.utils.clip_grad_norm_(training.parameters(), training.run.grad_clip)
    optimizer.step()
    torch.autograd.graph.increment_version(training.parameters())
    models.ledger.optimizer_steps += 1
    models.version = None
    models.after_step(before)
    training.step += 1
    training.position += training.count


def same(one: Path, other: Path) -> bool:
    """Whether two folders of checkpoints end with the same weights."""
    first, second = (
        load_file(checkpoint.complete(folder)[-1] / "model.safetensors") for folder in (one, other)
    )
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def compared(spec: Spec, repeats: int) -> tuple[Row, bool]:
    """The ratio of the medians, with its interval printed, and whether both did the same."""
    found: dict[str, list[tuple[float, float]]] = {"whole": [], "bare": []}
    alike = True
    for turn in range(repeats + 1):
        with tempfile.TemporaryDirectory() as place:
            folders = {"whole": Path(place) / "run", "bare": Path(place) / "bare"}
            for side in ("whole", "bare") if turn % 2 else ("bare", "whole"):
                seen = (whole if side == "whole" else bare)(spec, folders[side])
                if turn:
                    found[side].append(seen)
            alike &= same(folders["whole"] / "checkpoints", folders["bare"])
    which = 1 if torch.get_num_threads() == 1 else 0
    ours, peer = (np.array([each[which] for each in found[side]]) for side in found)
    draws = np.random.default_rng(0).integers(repeats, size=(4000, repeats))
    low, high = percentiles(np.median(ours[draws], 1) / np.median(peer[draws], 1))
    name = spec.method.name
    row = Row(f"{name}, {spec.run.steps} steps: s", np.median(ours), np.median(peer), "bare loop")
    walls = [float(np.median([each[0] for each in found[side]])) for side in found]
    print(
        f"{name}: whole / bare {row.ratio:.3f} [{low:.3f}, {high:.3f}] of {repeats} repeats; on "
        f"the clock {walls[0]:.2f} and {walls[1]:.2f} s; promised at most {SHARE}",
        flush=True,
    )
    if not alike:
        print(f"  wrong: {name} does not end with the weights of the bare loop", flush=True)
    return row, alike


def first_step(points: int | None, repeats: int) -> Row:
    """Seconds from the shell to the first step's line in metrics.jsonl, at the median."""
    walls, cpus = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "run"
            more = [] if points is None else ["--eval-points", str(points)]
            command = [sys.executable, "-m", "autodidact", "train", "opsd", "--steps", "1", *more]
            begun = time.perf_counter()
            running = subprocess.Popen(
                [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while not stepped(out / "metrics.jsonl"):
                if time.perf_counter() - begun > WAIT or running.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} made no step in {WAIT:g} s")
                time.sleep(0.01)
            walls.append(time.perf_counter() - begun)
            running.kill()
            _, _, used = os.wait4(running.pid, 0)
            running.returncode = 0
            cpus.append(used.ru_utime + used.ru_stime)
    name = "the default" if points is None else f"--eval-points {points}"
    shown = ", ".join(f"{wall:.2f}" for wall in sorted(walls))
    print(
        f"shell to first step, {name}: {shown} s on the clock; {np.median(cpus):.2f} s of the "
        "processor",
        flush=True,
    )
    return Row(f"shell to first step, {name}: s", float(np.median(walls)), SECONDS, "the promise")


def stepped(path: Path) -> bool:
    return path.exists() and '"kind": "step"' in path.read_text(encoding="utf-8")


def filled(folder: Path, completions: int, length: int) -> None:
    """A token view of that size in a run directory, of its own tokens with laws drawn at random."""
    place = folder / "tokens.json"
    seen = json.loads(place.read_text(encoding="utf-8"))
    found = [token for problem in seen["problems"] for token in problem["tokens"]]
    words = sorted({word for token in found for word, _ in token["student"]})
    generator = random.Random(0)

    def law() -> list[list[Any]]:
        sizes = sorted((generator.expovariate(1.0) ** 3 for _ in range(6)), reverse=True)
        return [[word, size / sum(sizes)] for word, size in zip(words, sizes, strict=False)]

    problems = []
    for number in range(completions):
        generator.shuffle(words)
        tokens = []
        for at in range(length):
            one = {**found[(number + at) % len(found)], "signal": generator.expovariate(1.0)}
            one |= {side: law() for side in ("student", "teacher")}
            one |= {"logp": -generator.random(), "teacher_logp": -generator.random()}
            tokens.append(one)
        text = "".join(token["text"] for token in tokens)
        problems.append({**seen["problems"][0], "completion": text, "tokens": tokens})
        problems[-1]["question"] = f"{number}: {seen['problems'][0]['question']}"
    place.write_text(json.dumps({**seen, "problems": problems}), encoding="utf-8")


def size_of_report(spec: Spec, completions: int, length: int) -> Row:
    with tempfile.TemporaryDirectory() as place:
        folder = execute(replace(spec, run=replace(spec.run, steps=1)), Path(place) / "run")
        filled(folder, completions, length)
        size = report(folder).stat().st_size
    name = f"report of {completions} x {length} tokens: bytes"
    return Row(name, size, BYTES, "the promise")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=(__doc__ or "").partition("\n\n")[0]
    )
    add = parser.add_argument
    add("--methods", nargs="*", default=["opsd", "grpo"], metavar="NAME")
    add("--steps", type=int, default=100, help="of each run (default 100, as `train` makes)")
    add("--rows", type=int, help="drawn in a step; those of the tiny model's own runs by default")
    add("--problems", type=int, default=32, help="evaluated once (default 32)")
    add("--repeats", type=int, default=5)
    add("--starts", type=int, default=5, help="times that the first step is waited for, each way")
    add("--completions", type=int, default=200, help="of the report")
    add("--length", type=int, default=256, help="tokens of each")
    add("--threads", type=int, default=1)
    add("--quick", action="store_true", help="small: 2 steps of 2 rows, once")
    add("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    if options.quick:
        options.methods, options.steps, options.rows, options.problems = ["opsd"], 2, 2, 2
        options.repeats, options.starts, options.completions, options.length = 1, 0, 4, 8
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a run did not end with the weights of the bare loop."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    print(machine())
    rows, right = [], True
    for method in options.methods:
        spec = chosen(method, options.steps, options.rows, options.problems)
        row, alike = compared(spec, options.repeats)
        rows, right = [*rows, row], right and alike
    if options.starts:
        rows += [first_step(points, options.starts) for points in (None, 0)]
    spec = chosen("opsd", 1, options.rows, options.problems)
    rows.append(size_of_report(spec, options.completions, options.length))
    show("What streams, ledger and report cost", rows)
    if options.json is not None:
        write(options.json, rows)
    return int(not right)


if __name__ == "__main__":
    raise SystemExit(main())
