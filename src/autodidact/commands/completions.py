"""Commands that let a model speak: `evaluate` and `sample`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from inspect import Parameter as Positional
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from autodidact import api
from autodidact.calls import Call
from autodidact.commands.options import command, function_options, pick, setting_options
from autodidact.names import part
from autodidact.problem import Problem, Task
from autodidact.redact import printable
from autodidact.run import Directory
from autodidact.settings import specify
from autodidact.spec import Spec, load_policy, make_engine, make_task

if TYPE_CHECKING:
    from autodidact.models import Models

WHERE = ("model", "data", "task", "columns", "test")
HOW = ("precision", "thinking", "device", "trust_remote_code", "unsafe_load", "engine")
RUN = Positional(
    "run",
    Positional.POSITIONAL_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, Parameter(help="a run of `train`, for its newest weights and its task")
    ],
)
MARKS = {True: ("right", "green"), False: ("wrong", "red"), None: ("  ?  ", "yellow")}
"""What stands before a completion, and its colour; the mark says it where there is none."""


def evaluation(
    problems: int = 128,
    samples: int = 8,
    length: int = 256,
    temperature: float = 1.0,
    json: Path | None = None,
) -> dict[str, Any]:
    """How a model is evaluated.

    Args:
        problems: held-out problems; all of them if fewer.
        samples: completions of each, beside the greedy one.
        length: at most this many tokens each.
        temperature: of the samples.
        json: write the numbers and every problem's result here.
    """
    return locals()


def sampling(
    problems: int = 4,
    samples: int = 4,
    length: int = 256,
    temperature: float = 1.0,
    split: Literal["train", "test"] = "test",
    seed: int = 0,
) -> dict[str, Any]:
    """How completions are drawn.

    Args:
        problems: the first ones of the split.
        samples: completions of each.
        length: at most this many tokens each.
        temperature: 0 takes the likeliest token.
        split: problems to train on, or held-out ones.
        seed: of sampling.
    """
    return locals()


def _evaluate(run: Path | None = None, /, **options: Any) -> None:
    how = evaluation(**{k: v for k, v in options.items() if k not in (*WHERE, *HOW)})
    models, task, chosen = _ready(run, options, how, "test")
    from autodidact.evaluate import Evaluation

    asked = Evaluation(task, chosen, how["samples"], how["length"], temperature=how["temperature"])
    found = asked(models)
    said = f"{models.policy.name if run is None else run} on {task.name}"
    print(printable(f"{said}: {len(chosen)} held-out problems, {how['samples']} samples each"))
    for name, value in found["metrics"].items():
        print(f"  {name:<10} {value:.4f}")
    if how["json"] is not None:
        how["json"].write_text(json.dumps(found, indent=1), encoding="utf-8")


def _sample(run: Path | None = None, /, **options: Any) -> None:
    how = sampling(**{k: v for k, v in options.items() if k not in (*WHERE, *HOW)})
    models, task, chosen = _ready(run, options, how, how["split"])
    from rich.console import Console
    from rich.text import Text

    from autodidact.evaluate import text_of
    from autodidact.law import Law
    from autodidact.rollouts.sample import solve

    terminal, known, right = Console(highlight=False), 0, 0
    law = Law(how["temperature"])
    drawn = solve(models, task, chosen, how["samples"], how["length"], law, how["seed"])
    for problem, completions in zip(chosen, drawn, strict=True):
        answer = "" if problem.answer is None else f"   [answer {problem.answer}]"
        terminal.print(Text(printable(problem.question + answer), style="bold"))
        for each in completions:
            text = text_of(models, each)
            verdict = _judged(task, problem, text)
            known, right = known + (verdict is not None), right + bool(verdict)
            mark, color = MARKS[verdict]
            cut = "" if each.finished else " (cut off)"
            said = printable(text).replace("\n", "\n      | ")
            terminal.print(Text(f"{mark} | {said}{cut}", style=color))
    terminal.print(f"{right} of {known} right")


def _judged(task: Task, problem: Problem, text: str) -> bool | None:
    if task.correct is None or problem.answer is None:
        return None
    return bool(task.correct(problem, text))


def _ready(
    run: Path | None, options: Mapping[str, Any], how: Mapping[str, Any], split: str
) -> tuple[Models, Task, list[Problem]]:
    """A loaded model, the task, and the problems that it will be asked."""
    for name in ("problems", "samples", "length"):
        if how[name] < 1:
            raise ValueError(f"{name}={how[name]} is not allowed: it must be at least 1")
    spec, checkpoint = _chosen(run, {k: v for k, v in options.items() if k in (*WHERE, *HOW)})
    task = make_task(spec)
    chosen = list(getattr(task, split)[: how["problems"]])
    if not chosen:
        raise ValueError(f"the task {task.name!r} has no {split} problems")
    from autodidact.checkpoint import restore_weights
    from autodidact.models import Models
    from autodidact.preflight import check_held

    plain = checkpoint is not None and not spec.lora
    policy = load_policy(replace(spec, model=str(checkpoint)) if plain else spec)
    models = Models(policy, engine=make_engine(spec))
    if checkpoint is not None and spec.lora:
        restore_weights(models.policy.model, checkpoint)
    check_held(models, task, chosen, how["length"])
    return models, task, chosen


def _chosen(run: Path | None, options: Mapping[str, Any]) -> tuple[Spec, Path | None]:
    """The spec and the checkpoint of a run, with the options that were said in place of its own;
    without a run, the options alone."""
    said = specify(Call(""), options)
    if run is None:
        return said, None
    call = api.opened(run)
    if call["kind"] != "train":
        raise ValueError(f"{run} is a {call['kind']} run, which keeps no weights; allowed: `train`")
    if "model" in options:
        raise ValueError(f"a run ({run}) and a model ({options['model']}) are given; allowed: one")
    names = {name: name for name in HOW if name in options}
    if "data" in options or "task" in options:
        names["task"] = "task"
    changed = {name: getattr(said, name) for name in names}
    return replace(Spec.of(call["spec"]), rewards=None, **changed), _newest(run)


def _newest(run: Path) -> Path:
    """The checkpoint that a run's last evaluation speaks about."""
    from autodidact import checkpoint

    best = [line.get("checkpoint") for line in Directory(run, resume=True).lines("metrics.jsonl")]
    if best and best[-1]:
        return run / "checkpoints" / part("checkpoint", best[-1])
    found = checkpoint.complete(run / "checkpoints")
    if not found:
        raise ValueError(f"{run} holds no complete checkpoint")
    return found[-1]


def _app(name: str, doc: str, run: Any, own: Any) -> App:
    where, how = pick(setting_options(), WHERE), pick(setting_options(), HOW)
    groups = (("Model and problems", (*where, *how)), ("How", function_options(own)))
    app = App(name=name)
    app.default(command(name, doc, run, groups, first=(RUN,)))
    return app


evaluate = _app(
    "evaluate",
    "Accuracy of a model, or of a trained run: greedy, of samples, pass@k, by majority.",
    _evaluate,
    evaluation,
)
sample = _app("sample", "Show completions, right and wrong.", _sample, sampling)
