"""One arm from start to end: load, check, train, evaluate, write the run directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autodidact import calls
from autodidact.run import Directory, describe_machine, describe_versions, git_revision
from autodidact.spec import Spec, load_policy, make_engine, make_task

SHOWN = 8
"""Completions of a step written to samples.jsonl."""
VIEWED = 6
"""Held-out problems of the token view."""


class Watcher:
    """Told what happens in a run. This one is silent; `console.Console` prints."""

    def start(self, directory: Directory, call: Mapping[str, Any], examples: list[Any]) -> None: ...
    def step(self, line: Mapping[str, Any], fraction: float) -> None: ...
    def point(self, line: Mapping[str, Any]) -> None: ...
    def diagnosis(self, found: Any) -> None: ...
    def end(self, directory: Directory) -> None: ...


def execute(
    spec: Spec,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    store: Path | None = None,
    watcher: Watcher | None = None,
) -> Path:
    """Run a spec and write its directory. Returns the directory.

    Args:
        out: a folder that does not exist or is empty; a fresh one under `runs/` by default.
        resume: go on from the newest complete checkpoint of `out`.
        store: a file of rollouts to share with other runs that start from the same weights.

    Raises:
        ValueError: the options, the data or the model cannot be used. Nothing has been written.
    """
    directory = Directory(out, resume=resume)
    method = calls.make(calls.method, spec.method)
    method.rollout.problems(spec.run.rows)
    task = make_task(spec)
    untouched = None if spec.untouched is None else calls.make(calls.task, spec.untouched)
    engine = make_engine(spec)
    from autodidact import preflight

    preflight.check_needs(method, task)
    from autodidact.models import Models
    from autodidact.store import Store
    from autodidact.train import Training

    models = Models(load_policy(spec), engine=engine)
    examples = preflight.check(method, models, task)
    if spec.states is not None:
        from autodidact.remembered import States

        models.states = States(spec.states)
    if store is not None:
        models.store = Store(store)
        models.version = f"{spec.model}/{spec.precision}"
    training = Training(method, models, task, spec.run)
    session = _Session(spec, directory, training, untouched, watcher or Watcher())
    session.run(resume, examples)
    for table in (models.store, models.states):
        if table is not None:
            table.close()
    return directory.path


class _Session:
    """The writing side of a run."""

    def __init__(self, spec, directory, training, untouched, watcher):
        from autodidact.evaluate import Evaluation
        from autodidact.preflight import check_held, drawn_length

        self.spec, self.directory, self.training = spec, directory, training
        self.watcher, self.checkpoints = watcher, directory.path / "checkpoints"
        self.call: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []
        self.said: set[str] = set()
        self.found: list[Any] | None = None
        self.best: tuple[float, str] | None = None
        task, run = training.task, spec.run
        self.held = list(task.test[: run.eval_problems])
        self.evaluation = self.validation = None
        if task.correct is not None and self.held:
            length = run.eval_length or drawn_length(training.method) or 256
            check_held(training.models, task, self.held, length)
            both = Evaluation(task, self.held, run.eval_samples, length, untouched)
            halves = (self.held[::2], self.held[1::2]) if run.keep == "best" else (self.held, [])
            self.evaluation = replace(both, problems=halves[0])
            if halves[1]:
                self.validation = replace(both, problems=halves[1], untouched=None)
        elif run.keep == "best":
            raise ValueError("keep='best' needs held-out problems with answers to choose by")

    def run(self, resume: bool, examples: list[Any]) -> None:
        from autodidact import checkpoint
        from autodidact.train import fit

        if resume:
            self.call = self.directory.read("run.json")
            found = checkpoint.complete(self.checkpoints)
            if not found:
                raise ValueError(f"{self.directory.path} holds no complete checkpoint to resume")
            checkpoint.restore(self.training, found[-1])
            for name in ("metrics.jsonl", "samples.jsonl"):
                self.directory.cut(name, self.training.step)
            self.lines = list(self.directory.lines("metrics.jsonl"))
        else:
            self.call = self._call()
            self.directory.write("run.json", self.call)
        self.watcher.start(self.directory, self.call, examples)
        with _trackers(self.spec.track, self.directory, self.call) as self.trackers:
            self._diagnose()
            fit(self.training, self._step, self._point)
        checkpoint.save(self.training, self.checkpoints)
        if self.best is not None:
            checkpoint.restore_weights(
                self.training.models.policy.model, self.checkpoints / self.best[1]
            )
            self._evaluate(1.0, checkpoint=self.best[1])
        self._view()
        self._diagnose(finished=True)
        self.call["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.directory.write("run.json", self.call)
        self.watcher.end(self.directory)

    def _step(self, batch: Any, line: dict[str, Any]) -> None:
        from autodidact import checkpoint

        self._write(line)
        self._samples(batch, line["step"])
        self.watcher.step(line, self.training.fraction)
        self._diagnose()
        every = self.spec.run.save_every
        if every and line["step"] % every == 0:
            checkpoint.save(self.training, self.checkpoints)
            checkpoint.prune(self.checkpoints)

    def _point(self, fraction: float) -> None:
        if self.evaluation is not None:
            self._evaluate(fraction)

    def _evaluate(self, fraction: float, **extra: Any) -> None:
        from autodidact import checkpoint
        from autodidact.privilege import privilege

        assert self.evaluation is not None
        models, task = self.training.models, self.training.task
        line = {
            "kind": "eval", "step": self.training.step, "fraction": fraction,
            "ledger": models.ledger.counts(), **self.evaluation(models), **extra,
            **privilege(self.training.method, models, task, task.train),
        }  # fmt: skip
        if self.validation is not None and not extra:
            line["validation"] = score = self.validation(models)["metrics"]["sampled"]
            if self.best is None or score > self.best[0]:
                name = f"best-{self.training.step:06d}"
                checkpoint.save(self.training, self.checkpoints, name)
                self.best = (score, name)
        self._write(line)
        self.watcher.point(line)

    def _write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.directory.append("metrics.jsonl", line)
        for tracker in self.trackers:
            tracker(line)

    def _samples(self, batch: Any, step: int) -> None:
        from autodidact.grade import texts

        if not len(batch):
            return
        shown = batch.select(list(range(min(SHOWN, len(batch)))))
        written = texts(shown, self.training.models)
        for row, (problem, text) in enumerate(zip(shown.rows, written, strict=True)):
            values = {
                name: _known(shown.streams[name][row]) if name in shown.streams else None
                for name in ("correct", "reward")
            }
            self.directory.append(
                "samples.jsonl",
                {
                    "step": step, "question": problem.question, "completion": text,
                    "answer": problem.answer, "reward": values["reward"],
                    "correct": None if values["correct"] is None else bool(values["correct"]),
                },
            )  # fmt: skip

    def _diagnose(self, finished: bool = False) -> None:
        from autodidact.diagnose import diagnose

        found = diagnose(self.lines, self.call, finished)
        for each in found:
            if each.what not in self.said:
                self.said.add(each.what)
                self.watcher.diagnosis(each)
        if found != self.found:
            self.found = found
            self.directory.write("diagnoses.json", [each.describe() for each in found])

    def _view(self) -> None:
        from autodidact.microscope import look

        if not self.held:
            return
        training = self.training
        seen = look(training.method, training.models, training.task, self.held[:VIEWED])
        self.directory.write("tokens.json", {"arm": self.spec.method.name, **seen})

    def _call(self) -> dict[str, Any]:
        spec, policy = self.spec, self.training.models.policy
        weights = list(policy.model.parameters())
        method = self.training.method
        return {
            "kind": "train",
            "method": {"name": method.name, "arguments": dict(method.arguments or {})},
            "model": {
                "path": spec.model,
                "kind": type(policy.base).__name__,
                "parameters": sum(p.numel() for p in weights),
                "trained": sum(p.numel() for p in weights if p.requires_grad),
                "end": policy.end,
                "pad": policy.tokenizer.pad_token_id,
                "template": policy.tokenizer.chat_template is not None,
            },
            "task": {"name": self.training.task.name, "arguments": dict(spec.task.arguments)},
            "run": asdict(spec.run),
            "budget": {
                "column": spec.run.column if spec.run.budget else "optimizer_steps",
                "amount": spec.run.budget or spec.run.steps,
            },
            "seeds": [spec.run.seed],
            "spec": spec.describe(),
            "versions": describe_versions(),
            "git": git_revision(),
            "machine": describe_machine(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": None,
        }


def _known(value: Any) -> float | None:
    return None if value.isnan() else float(value)


@contextlib.contextmanager
def _trackers(
    names: tuple[str, ...], directory: Directory, call: Mapping[str, Any]
) -> Iterator[list]:
    if not names:
        yield []
        return
    from autodidact.track import trackers

    with trackers(names, directory.path, call) as found:
        yield found
