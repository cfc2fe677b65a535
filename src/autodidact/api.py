"""The verbs in Python: `train` and `compare` take what the command line takes.

    from autodidact import compare, train

    train("opsd(divergence=reverse)", model="Qwen/Qwen3-1.7B", data="problems.jsonl", steps=100)
    compare(["opsd", "grpo", "sft"], data="problems.jsonl", budget=1e6, lr=1e-5)

Options are those of `setting` (what is trained on what) and the fields of `Run` (how).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from autodidact import calls
from autodidact.calls import Call
from autodidact.demo import TINY
from autodidact.names import nearest
from autodidact.run import Directory, Run
from autodidact.session import Watcher, execute
from autodidact.spec import Spec

MODEL, TASK = "tiny", "tiny_calculation"
RUN = tuple(field.name for field in fields(Run))


def setting(
    model: str = MODEL,
    data: str | None = None,
    task: str | None = None,
    columns: str | None = None,
    test: str | None = None,
    rewards: str | None = None,
    lora: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    track: str | None = None,
    lora_alpha: int | None = None,
    thinking: bool | None = None,
    device: str | None = None,
    untouched: str | None = None,
    trust_remote_code: bool = False,
    engine: str | None = None,
    states: str | None = None,
) -> dict[str, Any]:
    """What is trained on what: the fields of `Spec` beside the method and the run.

    Args:
        model: hub name, local folder, or "tiny", which comes with the package.
        data: JSONL, JSON, CSV, TSV or Parquet file, a folder, or a hub data set (owner/name).
        task: a task instead of data, such as "random_calculation(steps=2)"; tiny_calculation by
            default.
        columns: which column holds what: question=NAME,solution=NAME,answer=NAME.
        test: file of held-out problems; else the data's own test split, else a tenth of them.
        rewards: reward functions f(prompts, completions, **columns) in place of the task's:
            FILE.py:NAME or MODULE:NAME, several with weights: a.py:f=0.7,b.py:g=0.3.
        lora: rank of an adapter on all linear layers; 0 trains all weights.
        precision: bf16 computes in bfloat16; trained weights stay in float32.
        track: tensorboard, trackio or wandb; several with commas.
        lora_alpha: scale of the adapter; twice the rank by default.
        thinking: thinking mode of the prompts; the chat template's default if not said.
        device: cpu, cuda, cuda:1 ...; a GPU where there is one.
        untouched: a task that is evaluated and never trained on, to measure forgetting.
        trust_remote_code: run the code that comes with a model of the hub.
        engine: what draws completions: local, vllm, "server(url='http://127.0.0.1:8000')",
            "speculative(draft='FOLDER')", with further options of their own; local by default.
        states: a file in which what frozen teachers said is kept, and looked up by later runs on
            the same rows.

    Raises:
        ValueError: options that do not go together, an unknown task or tracker.
    """
    if data is not None and task is not None:
        raise ValueError(f"data={data!r} and task={task!r} are given; allowed: one of them")
    for name, value in (("columns", columns), ("test", test)):
        if data is None and value is not None:
            raise ValueError(f"{name}={value!r} belongs to data, and no data is given")
    if data is not None:
        given = {"path": data, "columns": columns, "test_file": test}
        problems = Call("from_file", {k: v for k, v in given.items() if v is not None})
    else:
        problems = calls.parse(task or TASK)
    names = tuple(name.strip() for name in track.split(",")) if track else ()
    if names:
        from autodidact.track import check

        for name in names:
            check(name)
    return {
        "model": model,
        "task": problems,
        "precision": precision,
        "lora": lora,
        "lora_alpha": lora_alpha,
        "thinking": thinking,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "engine": None if engine is None else calls.parse(engine),
        "states": states,
        "untouched": None if untouched is None else calls.parse(untouched),
        "rewards": rewards,
        "track": names,
    }


SETTING = tuple(inspect.signature(setting).parameters)


def specify(method: Call, options: Mapping[str, Any]) -> Spec:
    """The spec of a method with options by name.

    Raises:
        ValueError: an unknown option, with the nearest, or a value that is not allowed.
    """
    for name in options:
        if name not in (*SETTING, *RUN):
            raise ValueError(
                f"unknown option {name!r}{nearest(name, (*SETTING, *RUN))}; "
                f"allowed: {', '.join((*SETTING, *RUN))}"
            )
    of_run = {name: value for name, value in options.items() if name in RUN}
    if isinstance(of_run.get("budget"), float) and of_run["budget"].is_integer():
        of_run["budget"] = int(of_run["budget"])
    run = Run(**of_run)
    where = setting(**{name: value for name, value in options.items() if name in SETTING})
    return Spec(method, run=run, **where)


def train(
    method: str | Call = "opsd",
    *,
    out: Path | str | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> Path:
    """Train a model by one method, and write its run directory with a report.

    Args:
        method: `opsd`, or with options: `opsd(divergence=reverse, n=2)`.
        out: the run directory; a fresh one under `runs/` by default.
        watcher: told what happens; silent by default, see `console.Console`.
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
    return reported(execute(spec, out, watcher=watcher))


def resume(out: Path | str, watcher: Watcher | None = None) -> Path:
    """Go on with the run in a directory, from its newest complete checkpoint.

    Raises:
        ValueError: no run directory, not one of a training, or no complete checkpoint in it.
    """
    call = opened(out)
    if call["kind"] != "train":
        raise ValueError(f"{out} is a {call['kind']} run; allowed: a run of `train`")
    return reported(execute(Spec.of(call["spec"]), out, resume=True, watcher=watcher))


def compare(
    arms: Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    target: float | None = None,
    workers: int = 1,
    out: Path | str | None = None,
    length: int | None = None,
    n: int | None = None,
    temperature: float | None = None,
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
        out: the run directory; a fresh one under `runs/` by default.
        length, n, temperature: for every method that has such an option.
        begin, tell: told what happens, see `autodidact.compare.compare`.
        options: those of `setting` and of `Run`; `budget` is needed.

    Returns:
        The run directory.

    Raises:
        ValueError: as `train`.
    """
    from autodidact.compare import compare as run

    usual = usual_options(options)
    given = {"length": length, "n": n, "temperature": temperature}
    shared = {k: v for k, v in given.items() if v is not None}
    if "length" in usual:
        shared = {"length": usual["length"], **shared}
    of_run = {name: value for name, value in usual.items() if name in RUN}
    if not arms:
        raise ValueError("a comparison needs at least one arm, such as opsd")
    common = specify(calls.parse(arms[0]), {**of_run, **options})
    path = run(
        arms, common, seeds, shared=shared, out=out, target=target, workers=workers,
        begin=begin, tell=tell,
    )  # fmt: skip
    return reported(path)


def opened(out: Path | str) -> dict[str, Any]:
    """The `run.json` of a run directory; `ValueError` where there is none that can be read."""
    directory = Directory(out, resume=True)
    try:
        return directory.read("run.json")
    except json.JSONDecodeError as error:
        raise ValueError(f"{directory.path / 'run.json'}:{error.lineno}: {error.msg}") from error


def usual_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What suits the tiny model on its own task, where it is that which is trained; else none."""
    model, task = options.get("model", MODEL), options.get("task") or TASK
    at_home = model == MODEL and task.startswith(TASK) and options.get("data") is None
    return TINY if at_home else {}


def reported(directory: Path) -> Path:
    """Write the report of a finished run that has been evaluated. Returns the directory."""
    from autodidact.report import report

    lines = Directory(directory, resume=True).lines("metrics.jsonl")
    if (directory / "arms").is_dir() or any(line["kind"] == "eval" for line in lines):
        report(directory)
    return directory
