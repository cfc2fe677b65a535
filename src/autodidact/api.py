"""The verbs in Python: `train` and `compare` take what the command line takes.

    from autodidact import compare, train

    train("opsd(divergence=reverse)", model="Qwen/Qwen3-1.7B", data="problems.jsonl", steps=100)
    compare(["opsd", "grpo", "sft"], data="problems.jsonl", budget=1e6, lr=1e-5)

Options are those of `settings.setting` (what is trained on what) and the fields of `Run` (how).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodidact import calls
from autodidact.calls import Call
from autodidact.guards import Guard
from autodidact.run import Directory
from autodidact.session import Watcher, execute
from autodidact.settings import RUN, specify, usual_options
from autodidact.spec import Spec

if TYPE_CHECKING:
    from autodidact.reproduce import Replay


def train(
    method: str | Call = "opsd",
    *,
    out: Path | str | None = None,
    watcher: Watcher | None = None,
    ray: str | None = None,
    workers: int = 1,
    rollout_workers: int = 0,
    **options: Any,
) -> Path:
    """Train a model by one method, and write its run directory with a report.

    Args:
        method: `opsd`, or with options: `opsd(divergence=reverse, n=2)`.
        out: the run directory; a fresh one under `runs/` by default.
        watcher: told what happens; silent by default, see `console.Console`.
        ray: a Ray cluster to train on: local, auto or host:port. `out` must be on storage that
            all its nodes see.
        workers: of that cluster that train together.
        rollout_workers: of that cluster that draw in their place; a multiple of `workers`.
        options: those of `setting` and of `Run`.

    Returns:
        The run directory.

    Raises:
        ValueError: options, data or model that cannot be used. Nothing has been written then.
    """
    call = calls.parse(method) if isinstance(method, str) else method
    usual = usual_options(options)
    if "length" in usual and "length" in inspect.signature(calls.method(call.name)).parameters:
        call = Call(call.name, {"length": usual["length"], **call.arguments})
    of_run = {name: value for name, value in usual.items() if name in RUN}
    spec = specify(call, {**of_run, **options})
    if ray is None:
        _without_ray(workers=workers, rollout_workers=rollout_workers or 1)
        return reported(execute(spec, out, watcher=watcher))
    from autodidact.cluster import training

    path = training.train(
        spec, out, address=ray, workers=workers, rollout_workers=rollout_workers, watcher=watcher
    )
    return reported(path)


def _without_ray(**given: int) -> None:
    for name, value in given.items():
        if value != 1:
            raise ValueError(f"{name}={value} belongs to a cluster: give its address with ray")


def resume(
    out: Path | str,
    watcher: Watcher | None = None,
    *,
    strict: bool = False,
    allow_change: bool = False,
    guard: Guard | None = None,
    ray: str | None = None,
    workers: int = 1,
) -> Path:
    """Go on with the run in a directory, from its newest intact checkpoint; or from its start, if
    it was stopped before the first. One that has ended is left as it is.

    Args:
        strict: refuse where the newest checkpoint is damaged, instead of going on from the one
            before.
        allow_change: go on also with another configuration, other weights behind the model's name
            or other problems behind the data's than the run was begun with.
        guard: another than the run was begun with: one that was stopped goes on with "warn".
        ray, workers: a cluster to go on with it, as `train` has.

    Raises:
        ValueError: no run directory, not one of a training, every checkpoint is damaged, or what
            the options allow.
    """
    call = opened(out)
    if call["kind"] != "train":
        raise ValueError(f"{out} is a {call['kind']} run; allowed: a run of `train`")
    spec = Spec.of(call["spec"])
    if guard is not None:
        spec = replace(spec, run=replace(spec.run, guard=guard))
    how: dict[str, Any] = {"strict": strict, "allow_change": allow_change}
    if ray is None:
        _without_ray(workers=workers)
        return reported(execute(spec, out, resume=True, watcher=watcher, **how))
    from autodidact.cluster import training

    path = training.train(spec, out, address=ray, workers=workers, resume=how, watcher=watcher)
    return reported(path)


def replay(out: Path | str, step: int | None = None) -> Replay:
    """Compute a step of a run again, from what was kept of it or by drawing it again.

    Args:
        step: by default the first whose numbers were not finite.

    Raises:
        ValueError: no run directory of a training, no such step, or nothing was kept.
    """
    from autodidact.reproduce import replay as again

    opened(out)
    return again(Path(out), step)


def compare(
    arms: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    target: float | None = None,
    workers: int = 1,
    ray: str | None = None,
    arm_cpus: float = 1.0,
    arm_gpus: float = 0.0,
    out: Path | str | None = None,
    length: int | None = None,
    n: int | None = None,
    temperature: float | None = None,
    resume: Path | str | None = None,
    begin: Callable[[Mapping[str, Any], list[Any]], None] = lambda call, examples: None,
    tell: Callable[[str, float], None] = lambda text, done: None,
    **options: Any,
) -> Path:
    """Several methods, several seeds, one budget; a table and a report of what it bought.

    Args:
        arms: methods, perhaps with options of their own or of `Run`: `opsd(n=2, lr=1e-4)`.
        seeds: of each arm.
        target: the accuracy for "tokens to reach".
        workers: arms that run at the same time, a process of one thread each.
        ray: a Ray cluster to run arms on instead, as many at a time as it has room for: local,
            auto or host:port. `out` must be on storage that all its nodes see.
        arm_cpus, arm_gpus: processors of that cluster for each arm.
        out: the run directory; a fresh one under `runs/` by default.
        length, n, temperature: for every method that has such an option.
        resume: a run directory of a comparison to go on with instead, as it was begun: of the
            rest only `workers`, `ray`, `arm_cpus` and `arm_gpus` count.
        begin, tell: told what happens, see `autodidact.compare.compare`.
        options: those of `setting` and of `Run`; `budget` is needed.

    Returns:
        The run directory.

    Raises:
        ValueError: as `train`.
    """
    from autodidact.cluster import Cluster
    from autodidact.compare import compare as run
    from autodidact.compare import resume as go_on

    cluster = None if ray is None else Cluster(ray, arm_cpus, arm_gpus)
    how: dict[str, Any] = {"workers": workers, "cluster": cluster, "begin": begin, "tell": tell}
    if resume is not None:
        if arms or out is not None or options:
            raise ValueError("a comparison is resumed as it was begun: give no arms and options")
        opened(resume)
        return reported(go_on(resume, **how))
    usual = usual_options(options)
    given = {"length": length, "n": n, "temperature": temperature}
    shared = {k: v for k, v in given.items() if v is not None}
    if "length" in usual:
        shared = {"length": usual["length"], **shared}
    of_run = {name: value for name, value in usual.items() if name in RUN}
    if not arms:
        raise ValueError("a comparison needs at least one arm, such as opsd")
    common = specify(calls.parse(arms[0]), {**of_run, **options})
    return reported(run(arms, common, seeds, shared=shared, out=out, target=target, **how))


def opened(out: Path | str) -> dict[str, Any]:
    """The `run.json` of a run directory; `ValueError` where there is none that can be read."""
    directory = Directory(out, resume=True)
    try:
        return directory.read("run.json")
    except json.JSONDecodeError as error:
        raise ValueError(f"{directory.path / 'run.json'}:{error.lineno}: {error.msg}") from error


def reported(directory: Path) -> Path:
    """Write the report of a finished run that has been evaluated. Returns the directory."""
    from autodidact.parallel import leads
    from autodidact.report import report

    if not leads():
        return directory
    lines = Directory(directory, resume=True).lines("metrics.jsonl")
    if (directory / "arms").is_dir() or any(line["kind"] == "eval" for line in lines):
        report(directory)
    return directory
