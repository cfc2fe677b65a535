"""Everything that determines a run, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autodidact import calls, files
from autodidact.calls import Call
from autodidact.problem import Task
from autodidact.run import Run

if TYPE_CHECKING:
    from autodidact.engine import Engine
    from autodidact.model import LM


Parallel = Literal["ddp", "fsdp"]
Gather = Literal["all", "layers"]


@dataclass(frozen=True)
class Spec:
    """Everything that determines a run, as plain values: what `run.json` holds.

    Attributes:
        method, task: calls by name. untouched: a task to measure forgetting on.
        model: hub name, folder or "tiny". precision, lora, lora_alpha, thinking, device,
            trust_remote_code, unsafe_load: see `model.load`.
        rewards, reward_limits: import paths of user rewards, and limits of the process that they
            run in, see `tasks.rewards`.
        engine: what draws the completions, by name; the model itself by default.
        states: a file that remembers what frozen teachers said, see `remembered`.
        track: names of trackers.
        parallel: what several processes do with the weights: "ddp", each has all of them; "fsdp",
            each has a share, see `sharding`.
        gather: of a model that is spread, what each process has of it while it draws: "all"
            weights, or "layers", one after the other, see `sharding`.
        recompute: activation checkpointing, see `trunk.recomputed`.
    """

    method: Call
    task: Call
    run: Run = field(default_factory=Run)
    model: str = "tiny"
    precision: Literal["fp32", "bf16"] = "fp32"
    lora: int = 0
    lora_alpha: int | None = None
    thinking: bool | None = None
    device: str | None = None
    trust_remote_code: bool = False
    unsafe_load: bool = False
    untouched: Call | None = None
    rewards: str | None = None
    reward_limits: str | None = None
    track: tuple[str, ...] = ()
    engine: Call | None = None
    states: str | None = None
    parallel: Parallel = "ddp"
    gather: Gather = "all"
    recompute: bool = False

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Spec:
        """The spec that `describe()` described."""
        found = dict(values)
        for name in ("method", "task", "untouched", "engine"):
            if found.get(name) is not None:
                found[name] = Call(**found[name])
        return cls(**{**found, "run": Run(**found["run"]), "track": tuple(found["track"])})


def make_task(spec: Spec) -> Task:
    """The task of a spec, with the user's rewards in place of its own where given."""
    task = calls.make(calls.task, spec.task)
    if spec.rewards is None:
        return task
    from autodidact.tasks.rewards import user_reward

    reward = user_reward(spec.rewards, prompt=task.prompt, limits=spec.reward_limits)
    code = {t.name: None if t.file is None else files.digest(Path(t.file)) for t in reward.terms}
    return replace(task, reward=reward, reward_reads_answers=False, code=code)


def make_engine(spec: Spec) -> Engine | None:
    """The engine of a spec; `None` where it names none."""
    return None if spec.engine is None else calls.make(calls.engine, spec.engine)


def load_policy(spec: Spec) -> LM:
    """The model of a spec, as `model.load` loads it; the run's seed is that of an adapter."""
    from autodidact.model import load

    lm = load(
        spec.model,
        precision=spec.precision,
        lora=spec.lora,
        lora_alpha=spec.lora_alpha,
        device=spec.device,
        thinking=spec.thinking,
        trust_remote_code=spec.trust_remote_code,
        unsafe_load=spec.unsafe_load,
        seed=spec.run.seed,
    )
    lm.recompute = spec.recompute
    return lm
