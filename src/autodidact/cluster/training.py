"""Training as a group of workers of a Ray cluster, by Ray Train."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autodidact import calls
from autodidact.calls import Call
from autodidact.cluster import RETRIES, Shared, connected
from autodidact.cluster.follow import Follower
from autodidact.engines.connection import check_address, room
from autodidact.guards import Halted
from autodidact.jobs import SAVE_EVERY
from autodidact.names import at_least_one
from autodidact.run import Directory
from autodidact.session import Watcher, execute
from autodidact.spec import Spec

REFUSALS: dict[str, type[Exception]] = {"halted": Halted, "refused": ValueError}
"""Ends of a run that are its own."""

LOOK_SECONDS = 0.5
"""Between two looks at what the workers have written."""


@dataclass(frozen=True)
class Plan:
    """What every worker is told.

    Attributes:
        resume: options of `execute` for a run that has been begun.
        refused: a file in which a worker says why it refuses to train, or to train on. It is not
            started anew then: the reason would be the same.
    """

    spec: Spec
    out: Path
    shared: Shared
    resume: Mapping[str, Any]
    refused: Path


def train(
    spec: Spec,
    out: Path | str | None = None,
    *,
    address: str,
    workers: int = 1,
    rollout_workers: int = 0,
    resume: Mapping[str, Any] | None = None,
    watcher: Watcher | None = None,
) -> Path:
    """Run a spec as `execute` does, on workers of a cluster. Returns the run directory.

    Each worker is a rank of one process group, as `torchrun` makes it, with a processor, or with
    a GPU where the cluster has any and `device` is not "cpu". When a worker or its node is lost
    all are started anew, `RETRIES` times, and go on from the newest checkpoint; without
    `save_every` there is one every `SAVE_EVERY` steps.

    Args:
        address: local, auto or host:port.
        rollout_workers: processes that draw in place of the workers, see `engines.actors`; each
            worker has its share of them. 0: the workers draw themselves.
        resume: go on with `out`, by these options of `execute`; its rollout workers stay then.

    Raises:
        ValueError: as `execute`; no such cluster or no room in it; storage that is not shared; or
            workers that were lost too often.
    """
    check_address(address)
    at_least_one(workers=workers)
    if rollout_workers % workers or rollout_workers < 0:
        raise ValueError(
            f"rollout_workers={rollout_workers} cannot be shared out to workers={workers}: a "
            "multiple of it, or 0, is allowed"
        )
    directory = Directory(out, resume=resume is not None).path.absolute()
    calls.make(calls.method, spec.method).rollout.problems(spec.run.rows)
    with connected(address, workers + rollout_workers, 0):
        import ray

        gpu = spec.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        if gpu:
            room(address, 0, workers + rollout_workers)
        if resume is None:
            run = replace(spec.run, save_every=spec.run.save_every or SAVE_EVERY)
            spec = replace(spec, run=run)
            if rollout_workers:
                spec = replace(spec, engine=_spread(spec, address, rollout_workers // workers, gpu))
        directory.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            token = place / "shared"
            token.write_text(place.name, encoding="utf-8")
            plan = Plan(spec, directory, Shared.of(token), resume or {}, place / "refused")
            _fit(plan, place, workers, gpu, Follower(spec, directory, watcher or Watcher()))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return directory


def _spread(spec: Spec, address: str, workers: int, gpu: bool) -> Call:
    """The engine of a spec, in so many processes for each rank."""
    inner = spec.engine or Call("local")
    options = ", ".join(f"{name}={value!r}" for name, value in inner.arguments.items())
    arguments = {"workers": workers, "inner": f"{inner.name}({options})", "address": address}
    found = Call("actors", arguments | ({"gpus": 1.0} if gpu else {}))
    calls.make(calls.engine, found)
    return found


def _fit(plan: Plan, place: Path, workers: int, gpu: bool, follower: Follower) -> None:
    """Let Ray Train do it, and tell the watcher meanwhile what is written."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from autodidact.parallel import PATIENCE

    trainer = TorchTrainer(
        _work,
        train_loop_config={"plan": plan},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RunConfig(
            name="train",
            storage_path=str(place),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout_s=int(PATIENCE.total_seconds()),
        ),
    )
    # In a thread, so that this one can follow, and keeps its own way with signals.
    pool = ThreadPoolExecutor(1, "fit")
    try:
        fitted = pool.submit(trainer.fit)
        while not fitted.done():
            wait([fitted], LOOK_SECONDS)
            follower.look()
        error = fitted.exception()
    finally:
        pool.shutdown(wait=False)
    if plan.refused.exists():
        said = json.loads(plan.refused.read_text(encoding="utf-8"))
        raise REFUSALS[said["kind"]](said["reason"])
    if error is not None:
        raise _explained(error)
    follower.end()


def _explained(error: BaseException) -> BaseException:
    """Lost workers in a line; anything else is a bug and keeps its traceback."""
    from ray.exceptions import RayActorError

    for rank, failure in getattr(error, "worker_failures", {}).items():
        cause = getattr(failure, "health_check_failure", failure)
        if isinstance(cause, RayActorError):
            reason = str(cause).strip().splitlines()[0]
            return ValueError(
                f"workers were lost {RETRIES + 1} times, the last time worker {rank} with: "
                f"{reason}; what had been done is kept and can be gone on with"
            )
    return error


def _work(config: dict[str, Any]) -> None:
    """A worker: a rank of the process group, which Ray Train has made."""
    from autodidact import parallel

    plan: Plan = config["plan"]
    if plan.refused.exists():
        return
    plan.shared.enter()
    try:
        # Asked once, before any rank writes.
        begun = parallel.first((plan.out / "run.json").is_file)
        execute(plan.spec, plan.out, resume=begun, **(plan.resume if begun else {}))
    except tuple(REFUSALS.values()) as error:
        kind = next(name for name, each in REFUSALS.items() if isinstance(error, each))
        said = {"kind": kind, "reason": str(error)}
        plan.refused.write_text(json.dumps(said), encoding="utf-8")
        raise
