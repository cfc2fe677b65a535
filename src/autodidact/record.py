"""The writing side of a run: what it puts into its directory, and how it goes on from there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autodidact import files, interrupt, parallel
from autodidact.best import best_name, best_of
from autodidact.changes import Change, changes, permit, plain, tell, went_on
from autodidact.described import call_of, samples_of
from autodidact.diagnose import Doctor
from autodidact.guards import Diverged
from autodidact.journal import Journal
from autodidact.run import Directory
from autodidact.spec import Spec

if TYPE_CHECKING:
    from pathlib import Path

    from autodidact.problem import Task
    from autodidact.session import Watcher
    from autodidact.train import Training

VIEWED = 6
"""Held-out problems of the token view."""


class Record:
    """A training and everything that is written of it."""

    def __init__(
        self,
        spec: Spec,
        directory: Directory,
        training: Training,
        untouched: Task | None,
        watcher: Watcher,
    ):
        from autodidact.evaluate import Evaluation
        from autodidact.incidents import Incidents
        from autodidact.preflight import check_held, drawn_length

        self.spec, self.directory, self.training = spec, directory, training
        self.watcher, self.checkpoints = watcher, directory.path / "checkpoints"
        self.call: dict[str, Any] = {}
        self.said: set[str] = set()
        self.found: list[Any] | None = None
        self.best: tuple[float, str] | None = None
        self.signal: Callable[[], int | None] = lambda: None
        self.incidents = Incidents(training, directory.path)
        self.journal = Journal(directory, watcher.warn)
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

    def run(
        self,
        resume: bool,
        examples: list[Any],
        *,
        strict: bool = False,
        allow_change: bool = False,
    ) -> None:
        """Train from the start, or from the newest checkpoint, to the end."""
        from autodidact.train import fit

        self.call = call_of(self.spec, self.training)
        lines = self._go_on(strict, allow_change) if resume else []
        self.doctor = Doctor(self.call, lines)
        self.directory.write("run.json", self.call)
        self.watcher.start(self.directory, self.call, examples)
        with _trackers(self.spec.track, self.directory, self.call) as self.trackers:
            self._diagnose()
            with interrupt.later() as self.signal:
                try:
                    fit(self.training, self._step, self._point, self._end)
                except Diverged:
                    self._save()
                    raise
        self._save()
        if self.best is not None:
            self._take_best()
        self._view()
        self._diagnose(finished=True)
        self.journal.close()
        self.call["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.directory.write("run.json", self.call)
        self.watcher.end(self.directory)

    def _go_on(self, strict: bool, allow_change: bool) -> list[dict[str, Any]]:
        """From the newest checkpoint, or from the start if the run was killed before the first.

        Returns the metrics so far. Lines of later steps are dropped: they will be written again.
        """
        from autodidact import checkpoint

        now, self.call = self.call, self.directory.read("run.json")
        changed: list[Change] = []

        def look(path: Path | None) -> None:
            kept = {} if path is None else {"spec": checkpoint.beside_of(path)["spec"]}
            changed.extend(changes({**self.call, **kept}, now))
            if not allow_change:
                permit(changed, self.directory.path)

        if parallel.leads():
            files.tidy(self.directory.path)
            files.tidy(self.checkpoints)
        found = checkpoint.resume(
            self.training, self.checkpoints, strict=strict, warn=self.watcher.warn, look=look
        )
        step = -1 if found is None else self.training.step
        late = {} if found is None else checkpoint.beside_of(found)
        lines = parallel.first(lambda: self.journal.back_to(step, late))
        tell(changed, self.watcher.warn)
        went_on(self.call, now, changed, max(step, 0))
        self.best = parallel.first(
            lambda: best_of(lines, self.checkpoints, strict=strict, warn=self.watcher.warn)
        )
        return lines

    def _take_best(self) -> None:
        from autodidact import checkpoint

        assert self.best is not None
        path = self.checkpoints / self.best[1]
        checkpoint.verify(path)
        checkpoint.restore_weights(self.training.models.policy.model, path)
        self._evaluate(1.0, checkpoint=self.best[1])

    def _step(self, batch: Any, line: dict[str, Any]) -> None:
        for incident in self.incidents.of_step(batch):
            self._write(incident)
            self.watcher.warn(incident["say"])
        self._write(line)
        self.journal.add("samples.jsonl", *samples_of(self.training, batch, line["step"]))
        self.watcher.step(line, self.training.fraction)
        self._diagnose()
        if self.doctor.reason is not None and self.spec.run.guard == "stop":
            raise Diverged(self.doctor.reason)

    def _end(self) -> None:
        """The end of a step: all lines of it are written, so that what is saved fits them."""
        every = self.spec.run.save_every
        if every and self.training.step % every == 0:
            self._save()
        stop = max(parallel.everywhere(self.signal() or 0))
        if stop:
            self._save()
            raise interrupt.Stopped(stop)

    def _save(self) -> None:
        from autodidact import checkpoint

        beside = {**self.journal.late(), "spec": plain(self.spec.describe())}
        checkpoint.save(self.training, self.checkpoints, beside=beside)
        if parallel.leads():
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
                name = best_name(self.training.step)
                checkpoint.save(self.training, self.checkpoints, name)
                self.best = (score, name)
        self._write(line)
        self.watcher.point(line)

    def _write(self, line: dict[str, Any]) -> None:
        self.doctor.see(line)
        self.journal.add("metrics.jsonl", line)
        for tracker in self.trackers:
            tracker(line)

    def _diagnose(self, finished: bool = False) -> None:
        found = self.doctor.found(finished)
        for each in found:
            if each.what not in self.said:
                self.said.add(each.what)
                self.watcher.diagnosis(each)
        if found != self.found:
            try:
                self.directory.write("diagnoses.json", [each.describe() for each in found])
            except OSError as error:
                if finished:
                    raise
                self.journal.say(error)
            else:
                self.found = found

    def _view(self) -> None:
        from autodidact.microscope import look

        if not self.held:
            return
        training = self.training
        with training.models.opened(), parallel.alone():
            if parallel.leads():
                seen = look(training.method, training.models, training.task, self.held[:VIEWED])
                self.directory.write("tokens.json", {"arm": self.spec.method.name, **seen})


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
