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
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autodidact import calls
from autodidact.calls import Call
from autodidact.demo import TINY
from autodidact.guards import Guard
from autodidact.names import nearest
from autodidact.run import Directory, Run
from autodidact.session import Watcher, execute
from autodidact.spec import Spec

if TYPE_CHECKING:
    from autodidact.reproduce import Replay

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
    unsafe_load: bool = False,
    engine: str | None = None,
    states: str | None = None,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    recompute: bool = False,
    reward_limits: str | None = None,
    skip_bad_rows: bool = False,
    rejected: str | None = None,
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
        trust_remote_code: run the code that comes with a model: of a folder, or of the hub at a
            commit, owner/name@COMMIT.
        unsafe_load: read pickled weights where a model has no safetensors.
        engine: what draws completions: local, vllm, "server(url='http://127.0.0.1:8000')",
            "speculative(draft='FOLDER')", with further options of their own; local by default.
        states: a file in which what frozen teachers said is kept, and looked up by later runs on
            the same rows.
        parallel: what processes that torchrun started do with the weights: each has all of them
            (ddp) or a share (fsdp).
        recompute: activation checkpointing: a backward pass computes activations again, a third
            more work for much less memory.
        reward_limits: of the process of the rewards: seconds=60,memory=8,unscorable=0.5 (wall
            seconds a call, GiB, share of its completions that may fail), and env=NAME for each
            variable of the environment that they read.
        skip_bad_rows: go on without rows of the data that cannot be used.
        rejected: as skip_bad_rows, and write those rows to this new file.

    Raises:
        ValueError: options that do not go together, an unknown task or tracker.
    """
    if data is not None and task is not None:
        raise ValueError(f"data={data!r} and task={task!r} are given; allowed: one of them")
    of_data = {
        "columns": columns, "test": test, "skip_bad_rows": skip_bad_rows or None,
        "rejected": rejected,
    }  # fmt: skip
    for name, value in of_data.items():
        if data is None and value is not None:
            raise ValueError(f"{name}={value!r} belongs to data, and no data is given")
    if reward_limits is not None and rewards is None:
        raise ValueError(f"reward_limits={reward_limits!r} belongs to rewards; none are given")
    if data is not None:
        given = {"path": data, "test_file": of_data.pop("test"), **of_data}
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
        "unsafe_load": unsafe_load,
        "engine": None if engine is None else calls.parse(engine),
        "states": states,
        "parallel": parallel,
        "recompute": recompute,
        "untouched": None if untouched is None else calls.parse(untouched),
        "rewards": rewards,
        "reward_limits": reward_limits,
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


def usual_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What suits the tiny model on its own task, where it is that which is trained; else none."""
    model, task = options.get("model", MODEL), options.get("task") or TASK
    at_home = model == MODEL and task.startswith(TASK) and options.get("data") is None
    return TINY if at_home else {}


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
