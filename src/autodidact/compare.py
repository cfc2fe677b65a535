"""Several methods, several seeds, one budget: the comparison nobody else ships.

Every arm starts from the same weights, sees the same problems in the same order, spends the same
amount of one ledger column and is looked at on the same held-out problems at the same points.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from autodidact import calls
from autodidact.arms import Arm, arms_of
from autodidact.run import (
    Directory,
    describe_machine,
    describe_versions,
    git_revision,
)
from autodidact.session import execute
from autodidact.spec import Spec, load_policy, make_task

FALLBACK = "student_backward"
"""The column an arm is measured in that spends nothing of the budget's column."""


def compare(
    texts: Sequence[str],
    common: Spec,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    shared: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    target: float | None = None,
    workers: int = 1,
    begin: Callable[[Mapping[str, Any], list[Any]], None] = lambda call, examples: None,
    tell: Callable[[str, float], None] = lambda text, done: None,
) -> Path:
    """Run every arm with every seed and write `run.json`, `compare.json` and the arms' folders.

    Args:
        common: model, task and run of all arms; its `run.budget` and `run.column` are the budget.
            `run.json` states the rule by which the checkpoint was chosen.
        target: the accuracy for "tokens to reach"; half way between the start and the best arm
            by default.
        workers: arms that run at the same time, each in a process of one thread.
        begin: called before the first arm starts with what `run.json` holds and with what each
            role of the first arm reads for one problem, see `preflight.Example`.
        tell: called with a line of text and the share of the work done.

    Raises:
        ValueError: as `execute`, before any arm starts.
    """
    from autodidact.report.summary import summarise

    if common.run.budget is None:
        raise ValueError(
            "a comparison needs a budget: how much of one ledger column each arm may use"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)} must be at least one and all different")
    if workers < 1:
        raise ValueError(f"workers={workers} is not allowed: it must be at least 1")
    directory = Directory(out)
    arms = arms_of(texts, common, shared or {})
    parameters, examples = _check(arms)
    by_name = {arm.name: arm for arm in arms}
    reference = next((arm for arm in arms if arm.draws), None)
    if reference is None and common.run.column == "generated":
        raise ValueError("no arm generates tokens: choose another budget column")
    call = _call(arms, common, list(seeds), directory, target, parameters, reference)
    directory.write("run.json", call)
    begin(call, examples)
    drawing = [arm for arm in arms if arm.draws or common.run.column != "generated"]
    others = [arm for arm in arms if arm not in drawing]
    done, total = 0, len(arms) * len(seeds)

    def finished(job: _Job) -> None:
        nonlocal done
        done += 1
        tell(f"{job.arm}, seed {job.spec.run.seed}: {_last(job.out)}", done / total)

    store = directory.path / "store.sqlite"
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_worker) as pool:
        _work(
            pool, [_job(arm, seed, directory, store) for arm in drawing for seed in seeds], finished
        )
        late = []
        for arm in others:
            assert reference is not None
            for seed in seeds:
                spent = _ledger(_place(directory, reference.name, seed))[FALLBACK]
                run = replace(arm.spec.run, budget=spent, column=FALLBACK)
                matched = replace(by_name[arm.name], spec=replace(arm.spec, run=run))
                late.append(_job(matched, seed, directory, store))
        _work(pool, late, finished)
    call["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    directory.write("run.json", call)
    directory.write("diagnoses.json", _diagnoses(arms, seeds, directory))
    directory.write("compare.json", summarise(directory.path))
    return directory.path


@dataclass(frozen=True)
class _Job:
    arm: str
    spec: Spec
    out: Path
    store: Path


def _job(arm: Arm, seed: int, directory: Directory, store: Path) -> _Job:
    spec = replace(arm.spec, run=replace(arm.spec.run, seed=seed))
    return _Job(arm.name, spec, _place(directory, arm.name, seed), store)


def _place(directory: Directory, arm: str, seed: int) -> Path:
    return directory.path / "arms" / arm / f"seed-{seed}"


def _run(job: _Job) -> _Job:
    execute(job.spec, job.out, store=job.store)
    # The weights of an arm are kept only where a run of its own was asked for.
    shutil.rmtree(job.out / "checkpoints")
    return job


def _worker() -> None:
    import torch

    # An interrupt ends a worker at once. As an exception in its job it would leave the worker
    # alive, to go on with the next job of the queue.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)


def _work(
    pool: ProcessPoolExecutor, jobs: Sequence[_Job], finished: Callable[[_Job], None]
) -> None:
    waiting = [pool.submit(_run, job) for job in jobs]
    try:
        for each in as_completed(waiting):
            finished(each.result())
    finally:
        for each in waiting:
            each.cancel()


def _check(arms: Sequence[Arm]) -> tuple[int, list[Any]]:
    """Everything an arm could fail on at its start, before any arm starts.

    Returns the number of weights, and what the roles of the first arm read for one problem.
    """
    from autodidact import preflight
    from autodidact.models import Models

    spec = arms[0].spec
    task = make_task(spec)
    if task.correct is None or not task.test:
        raise ValueError(f"the task {task.name!r} has no held-out problems that can be graded")
    for arm in arms:
        preflight.check_needs(calls.make(calls.method, arm.spec.method), task)
    policy = load_policy(spec)
    examples = [
        preflight.check(calls.make(calls.method, arm.spec.method), Models(policy), task)
        for arm in arms
    ]
    return sum(p.numel() for p in policy.model.parameters()), examples[0]


def _call(arms, common, seeds, directory, target, parameters, reference) -> dict[str, Any]:
    run, matched = common.run, None
    if any(not arm.draws for arm in arms) and run.column == "generated":
        matched = f"the {FALLBACK} tokens of {reference.name} with the same seed"
    return {
        "kind": "compare",
        "arms": [
            {
                "name": arm.name,
                "method": arm.spec.method.name,
                "arguments": dict(calls.make(calls.method, arm.spec.method).arguments),
                "lr": arm.spec.run.lr,
                "budget": None if arm.draws or run.column != "generated" else matched,
            }
            for arm in arms
        ],
        "model": {"path": common.model, "parameters": parameters},
        "task": {"name": common.task.name, "arguments": dict(common.task.arguments)},
        "run": {**common.describe()["run"], "target": target},
        "budget": {"column": run.column, "amount": run.budget},
        "checkpoint_rule": run.keep,
        "seeds": seeds,
        "spec": common.describe(),
        "versions": describe_versions(),
        "git": git_revision(),
        "machine": describe_machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
    }


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    lines = Directory(folder, resume=True).lines("metrics.jsonl")
    return [line for line in lines if line["kind"] == "eval"]


def _ledger(folder: Path) -> dict[str, float]:
    return _evaluations(folder)[-1]["ledger"]


def _last(folder: Path) -> str:
    first, last = (_evaluations(folder)[place]["metrics"]["sampled"] for place in (0, -1))
    seconds = _ledger(folder)["seconds"]
    return f"sampled accuracy {first:.3f} -> {last:.3f} in {seconds:.0f} s of training"


def _diagnoses(arms: Sequence[Arm], seeds: Sequence[int], directory: Directory) -> list[Any]:
    found = []
    for arm in arms:
        for seed in seeds:
            place = Directory(_place(directory, arm.name, seed), resume=True)
            for each in place.read("diagnoses.json"):
                found.append({**each, "what": f"{arm.name}, seed {seed}: {each['what']}"})
    return found
