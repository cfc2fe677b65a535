"""A method that no paper proposes, run beside the arms of a comparison that has ended.

The arms of `autodidact.compare` are methods of the library, by name. A control such as a loss with
its sign turned round is none; here it gets the same weights, problems, seeds, rollouts of the
first step, budget and evaluation, and a place in the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autodidact.evaluate import Evaluation
from autodidact.method import Method
from autodidact.models import Models
from autodidact.report import report, summarise
from autodidact.run import Directory, Run
from autodidact.spec import Spec, load_policy, make_engine, make_task
from autodidact.store import Store
from autodidact.train import Training, fit

Make = Callable[..., Method]
"""Makes the method; it is given the length of completions."""


def beside(comparison: Path, name: str, make: Make) -> None:
    """Run a method with every seed of a comparison, and write its tables and report anew."""
    directory = Directory(comparison, resume=True)
    call = directory.read("run.json")
    spec = Spec.of(call["spec"])
    arguments = call["arms"][0]["arguments"]
    method = make(length=arguments["length"])
    for seed in call["seeds"]:
        place = Directory(directory.path / "arms" / name / f"seed-{seed}")
        _arm(method, spec, replace(spec.run, seed=seed), place, directory.path / "store.sqlite")
    call["arms"].append(
        {"name": name, "method": name, "arguments": {}, "lr": spec.run.lr, "budget": None}
    )
    directory.write("run.json", call)
    directory.write("compare.json", summarise(directory.path))
    report(directory.path)


def _arm(method: Method, spec: Spec, run: Run, place: Directory, store: Path) -> None:
    """One seed: train, and write the lines that `autodidact.session` would."""
    task = make_task(spec)
    models = Models(load_policy(replace(spec, run=run)), Store(store), make_engine(spec))
    models.version = f"{spec.model}/{spec.precision}"
    training = Training(method, models, task, run)
    length = run.eval_length or method.rollout.length
    evaluation = Evaluation(task, task.test[: run.eval_problems], run.eval_samples, length)

    def point(fraction: float) -> None:
        found = {"kind": "eval", "step": training.step, "fraction": fraction}
        ledger: dict[str, Any] = {"ledger": models.ledger.counts()}
        place.append("metrics.jsonl", found | ledger | evaluation(models))

    fit(training, lambda batch, line: place.append("metrics.jsonl", line), point)
    models.store.close()
