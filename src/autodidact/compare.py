"""Several methods, several seeds, one budget: the comparison nobody else ships.

Every arm starts from the same weights, sees the same problems in the same order, spends the same
amount of one ledger column and is looked at on the same held-out problems at the same points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autodidact import calls
from autodidact.arms import Arm, arms_of
from autodidact.cluster import Cluster
from autodidact.jobs import SAVE_EVERY, Job, Work, processes
from autodidact.lock import locked
from autodidact.run import (
    Directory,
    describe_machine,
    describe_versions,
    git_revision,
)
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
    cluster: Cluster | None = None,
    begin: Callable[[Mapping[str, Any], list[Any]], None] = lambda call, examples: None,
    tell: Callable[[str, float], None] = lambda text, done: None,
) -> Path:
    """Run every arm with every seed and write `run.json`, `compare.json` and the arms' folders.

    Args:
        common: model, task and run of all arms; its `run.budget` and `run.column` are the budget.
            `run.json` states the rule by which the checkpoint was chosen. Without `save_every`
            an arm writes a checkpoint every `SAVE_EVERY` steps, and deletes them at its end.
        target: the accuracy for "tokens to reach"; half way between the start and the best arm
            by default.
        workers: arms that run at the same time, each in a process of one thread.
        cluster: where arms run instead, as many at a time as there is room for.
        begin: called before the first arm starts with what `run.json` holds and with what each
            role of the first arm reads for one problem, see `preflight.Example`.
        tell: called with a line of text and the share of the work done.

    Raises:
        ValueError: as `execute`, before any arm starts.
    """
    if common.run.budget is None:
        raise ValueError(
            "a comparison needs a budget: how much of one ledger column each arm may use"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)} must be at least one and all different")
    work = _work(workers, cluster)
    directory = Directory(out)
    run = replace(common.run, save_every=common.run.save_every or SAVE_EVERY)
    common = replace(common, run=run)
    arms = arms_of(texts, common, shared or {})
    parameters, examples = _check(arms)
    reference = _reference(arms)
    if reference is None and run.column == "generated":
        raise ValueError("no arm generates tokens: choose another budget column")
    call = _call(arms, common, list(seeds), target, parameters, reference)
    for arm, text in zip(call["arms"], texts, strict=True):
        arm["text"] = text
    call["shared"] = dict(shared or {})
    directory.write("run.json", call)
    begin(call, examples)
    return _finish(directory, call, arms, work, cluster is None, tell)


def resume(
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    begin: Callable[[Mapping[str, Any], list[Any]], None] = lambda call, examples: None,
    tell: Callable[[str, float], None] = lambda text, done: None,
) -> Path:
    """Go on with a comparison: arms that ended stay, others go on from their checkpoints.

    A comparison that ended stays as it is.

    Raises:
        ValueError: no run directory, or not one of a comparison.
    """
    directory, call = begun(out)
    work = _work(workers, cluster)
    arms = arms_of([arm["text"] for arm in call["arms"]], Spec.of(call["spec"]), call["shared"])
    _, examples = _check(arms)
    begin(call, examples)
    if call["finished"] is not None:
        return directory.path
    return _finish(directory, call, arms, work, cluster is None, tell)


def begun(out: Path | str) -> tuple[Directory, dict[str, Any]]:
    """The directory of a comparison and its `run.json`; `ValueError` where it is none."""
    directory = Directory(out, resume=True)
    call = directory.read("run.json")
    if call["kind"] != "compare":
        raise ValueError(f"{out} is a {call['kind']} run; allowed: a run of `compare`")
    return directory, call


def _work(workers: int, cluster: Cluster | None) -> AbstractContextManager[Work]:
    """Who does the jobs."""
    if workers < 1:
        raise ValueError(f"workers={workers} is not allowed: it must be at least 1")
    if cluster is None:
        return processes(workers)
    if workers > 1:
        raise ValueError(
            f"workers={workers} is not allowed with ray: the cluster runs as many arms at a time "
            "as it has room for"
        )
    from autodidact.cluster.arms import tasks

    return tasks(cluster)


def _finish(
    directory: Directory,
    call: dict[str, Any],
    arms: Sequence[Arm],
    work: AbstractContextManager[Work],
    together: bool,
    tell: Callable[[str, float], None],
) -> Path:
    """Do what is left of a comparison.

    Args:
        together: arms share a file of rollouts, which takes a disk of their own machine.
    """
    from autodidact.report.summary import summarise

    seeds, column, reference = call["seeds"], call["budget"]["column"], _reference(arms)
    store = directory.path / "store.sqlite" if together else None
    drawing = [arm for arm in arms if arm.draws or column != "generated"]
    others = [arm for arm in arms if arm not in drawing]
    done, total = 0, len(arms) * len(seeds)

    def finish(jobs: list[Job], do: Work) -> None:
        nonlocal done
        for job in do(jobs):
            done += 1
            tell(f"{job.arm}, seed {job.spec.run.seed}: {_last(job.out)}", done / total)

    with locked(directory.path), work as do:
        finish([_job(arm, seed, directory, store) for arm in drawing for seed in seeds], do)
        late = []
        for arm in others:
            assert reference is not None
            for seed in seeds:
                spent = _ledger(_place(directory, reference.name, seed))[FALLBACK]
                run = replace(arm.spec.run, budget=spent, column=FALLBACK)
                matched = replace(arm, spec=replace(arm.spec, run=run))
                late.append(_job(matched, seed, directory, store))
        finish(late, do)
    call["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    directory.write("diagnoses.json", _diagnoses(arms, seeds, directory))
    directory.write("compare.json", summarise(directory.path))
    directory.write("run.json", call)
    return directory.path


def _reference(arms: Sequence[Arm]) -> Arm | None:
    """The arm whose spending arms that draw nothing are given."""
    return next((arm for arm in arms if arm.draws), None)


def _job(arm: Arm, seed: int, directory: Directory, store: Path | None) -> Job:
    spec = replace(arm.spec, run=replace(arm.spec.run, seed=seed))
    return Job(arm.name, spec, _place(directory, arm.name, seed), store)


def _place(directory: Directory, arm: str, seed: int) -> Path:
    return directory.path / "arms" / arm / f"seed-{seed}"


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


def _call(arms, common, seeds, target, parameters, reference) -> dict[str, Any]:
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
