"""One arm from start to end: load, check, train, evaluate, write the run directory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodidact import calls
from autodidact.interrupt import caught
from autodidact.lock import locked
from autodidact.redact import printable
from autodidact.run import Directory
from autodidact.spec import Spec, load_policy, make_engine, make_task

if TYPE_CHECKING:
    from autodidact.engine import Engine
    from autodidact.method import Method
    from autodidact.model import LM
    from autodidact.models import Models
    from autodidact.preflight import Example
    from autodidact.problem import Task


class Watcher:
    """Told what happens in a run. This one is silent but for warnings; `console.Console` prints."""

    def start(self, directory: Directory, call: Mapping[str, Any], examples: list[Any]) -> None: ...
    def step(self, line: Mapping[str, Any], fraction: float) -> None: ...
    def point(self, line: Mapping[str, Any]) -> None: ...
    def diagnosis(self, found: Any) -> None: ...
    def end(self, directory: Directory) -> None: ...

    def warn(self, text: str) -> None:
        """What must not go unseen: damage, or a file that cannot be written."""
        print(f"warning: {printable(text)}", file=sys.stderr)


class Silent(Watcher):
    """Of a process whose first one speaks."""

    def warn(self, text: str) -> None: ...


def execute(
    spec: Spec,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    strict: bool = False,
    allow_change: bool = False,
    store: Path | None = None,
    watcher: Watcher | None = None,
) -> Path:
    """Run a spec and write its directory. Returns the directory.

    Args:
        out: a folder that does not exist or is empty; a fresh one under `runs/` by default.
        resume: go on from the newest intact checkpoint of `out`, or from the start where none was
            written. A run that has ended is left as it is.
        strict: refuse to resume where the newest checkpoint is damaged.
        allow_change: resume also with another configuration, other weights or other problems than
            those the run began with, see `changes`.
        store: a file of rollouts to share with other runs that start from the same weights.

    Raises:
        ValueError: the options, the data or the model cannot be used, or another process is at
            work in `out`. Nothing has been written.
        Stopped: a signal came; a checkpoint of the step it came in has been written.
    """
    from autodidact import parallel

    parallel.start(spec.device)
    _may_be_spread(spec)
    place = parallel.first(lambda: Directory(out, resume=resume).path)
    directory = Directory.of_another(place)
    if parallel.leads():
        directory = Directory(place, resume=resume)
    else:
        watcher = Silent()
    if resume and directory.read("run.json")["finished"]:
        return directory.path
    method = calls.make(calls.method, spec.method)
    method.rollout.problems(spec.run.rows)
    task = make_task(spec)
    untouched = None if spec.untouched is None else calls.make(calls.task, spec.untouched)
    engine = make_engine(spec)
    from autodidact import preflight

    preflight.check_needs(method, task)
    from autodidact.record import Record
    from autodidact.store import Store
    from autodidact.train import Training

    models, examples, device = _prepared(spec, method, task, engine)
    with caught(directory.path), ExitStack() as tables:
        if spec.states is not None:
            from autodidact.remembered import States

            models.states = tables.enter_context(closing(States(spec.states)))
        if store is not None:
            models.store = tables.enter_context(closing(Store(store)))
            models.version = f"{spec.model}/{spec.precision}"
        if spec.parallel == "fsdp":
            models.shard(spec.gather, device)
        preflight.check_engine(method, models, task)
        training = Training(method, models, task, spec.run)
        record = Record(spec, directory, training, untouched, watcher or Watcher())

        def claim() -> None:
            tables.enter_context(locked(place))
            Directory(place, resume=resume)  # somebody may have begun there in the meantime

        parallel.first(claim)
        record.run(resume, examples, strict=strict, allow_change=allow_change)
    return directory.path


def _prepared(
    spec: Spec, method: Method, task: Task, engine: Engine | None
) -> tuple[Models, list[Example], str | None]:
    """The models of a run with all roles that it needs, what they read, and, where the first
    process alone has their weights, the device that they are to be dealt out to."""
    from autodidact import parallel, places, preflight
    from autodidact.models import Models
    from autodidact.skeleton import skeletons

    def prepare(spec: Spec) -> tuple[Models, list[Example]]:
        models = Models(load_policy(spec), engine=engine)
        examples = preflight.check(method, models, task)
        if spec.parallel == "fsdp":
            preflight.meet(method, models, task)
        return models, examples

    # The roles of a masked method are known when it has drawn, which takes a device; and code that
    # comes with a model is known to the process that has loaded it.
    if spec.parallel != "fsdp" or method.masked or spec.trust_remote_code:
        return *prepare(spec), None
    device, own = places.device(spec.device), []

    def first() -> tuple[dict[str, LM], list[Example]]:
        with parallel.alone():
            models, examples = prepare(replace(spec, device="cpu"))
        own.append(models)
        return skeletons(models.roles()), examples

    roles, examples = parallel.first(first)
    models = own[0] if own else Models(roles["policy"], engine=engine, roles=roles)
    return models, examples, device


def _may_be_spread(spec: Spec) -> None:
    from autodidact import parallel

    if spec.gather == "layers" and spec.parallel != "fsdp":
        raise ValueError(
            f"gather='layers' with parallel={spec.parallel!r}, where each process has all "
            "weights; allowed: parallel='fsdp'"
        )
    if spec.parallel != "fsdp":
        return
    if spec.run.staleness:
        raise ValueError(
            f"staleness={spec.run.staleness} with parallel='fsdp': what draws ahead needs a copy "
            "of all weights; take parallel='ddp', or staleness=0"
        )
    if parallel.ranks() == 1:
        raise ValueError(
            "parallel='fsdp' spreads the weights over several processes, and there is one: start "
            "them by torchrun --nproc-per-node N -m -- autodidact train ..."
        )
