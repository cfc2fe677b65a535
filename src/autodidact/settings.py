"""The options of a run by name: what is trained on what, and how.

They are those of `setting` and the fields of `Run`; the command line and Python share them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from autodidact import calls
from autodidact.calls import Call
from autodidact.demo import TINY
from autodidact.names import nearest
from autodidact.run import Run
from autodidact.spec import Gather, Parallel, Spec

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
    parallel: Parallel = "ddp",
    gather: Gather = "all",
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
        gather: what a process has of a model that is spread while it draws: all of it, or layers,
            one after the other for each token, where all would not fit.
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
        "gather": gather,
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


def usual_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What suits the tiny model on its own task, where it is that which is trained; else none."""
    model, task = options.get("model", MODEL), options.get("task") or TASK
    at_home = model == MODEL and task.startswith(TASK) and options.get("data") is None
    return TINY if at_home else {}
