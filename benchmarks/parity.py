"""Our GRPO against TRL's on one task, reward and budget: `python -m benchmarks.parity`.

Three arms train the shipped tiny model with every seed, on the same problems in the same order:

ours    `grpo` with our engine;
TRL     `GRPOTrainer` with transformers' `generate`: another sampler, other random numbers;
shared  `GRPOTrainer` fed by our engine through its `rollout_func`: the learning rule alone.

Ours and TRL must be equal in accuracy within the noise of sampling; ours and shared must go the
same way, weight by weight, and TRL's count of the shared tokens must be that of our ledger.

Settled here so that the arms do the same, where TRL's defaults differ: loss_type "grpo" (mean of
each row, then over rows; "dapo" by default), a constant learning rate (linear), float32 (bfloat16),
no activation checkpointing (on), problems in the given order (shuffled). Left as they are, because
at these values they have no effect: top-k, top-p, min-p and repetition penalty. One difference
stays: on the first update TRL takes its own detached log-probability as the old one, so its ratio
is exactly 1, while ours is that of trainer and sampler, 1 within float32 rounding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from autodidact.engines.lean import lean
from autodidact.engines.local import Local
from autodidact.evaluate import Evaluation
from autodidact.law import Law
from autodidact.methods.grpo import grpo
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import complete
from autodidact.run import Run
from autodidact.statistics import difference, resample
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.train import Training, problems_at
from benchmarks.table import Row, machine, show, write

MARGIN = 0.03
"""Accuracies that differ by less are called equal."""
TOLERANCE = 0.01
"""Largest share by which the ledger may be off."""


@dataclass(frozen=True)
class Setting:
    """What all arms share. `rows` completions of `rows / n` problems make one update."""

    steps: int = 60
    rows: int = 64
    n: int = 8
    length: int = 40
    lr: float = 2e-4
    clip: float = 0.2
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    model: str = "tiny"

    def problems(self, task: Task, seed: int) -> list[Problem]:
        return problems_at(task.train, 0, self.steps * self.rows // self.n, seed)


@dataclass
class Outcome:
    """What an arm left: its model, seconds of each step, the ledger, and a count beside it."""

    lm: LM
    seconds: list[float]
    ledger: dict[str, float]
    counted: Counter[str]
    rewards: list[float]


@contextmanager
def counting(lm: LM) -> Iterator[Counter[str]]:
    """Counts tokens where they pass, by the names of the ledger's columns, without the ledger.

    What the model is able to read is tried out before: that is no part of training.
    """
    assert lm.packs
    assert lean(lm)
    count: Counter[str] = Counter()
    draw = Local.draw

    def watched(*args: Any) -> Any:
        found = draw(*args)
        count["generated"] += sum(len(each.ids) for each in found.completions)
        return found

    def passed(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        tokens = int(kwargs["attention_mask"].sum())
        if torch.is_grad_enabled():
            count["student_forward"] += tokens
            output.last_hidden_state.register_hook(
                lambda gradient: count.update(student_backward=tokens)
            )
        elif kwargs["input_ids"].shape[1] == kwargs["attention_mask"].shape[1]:
            count["prefilled"] += tokens

    hook = lm.base.base_model.register_forward_hook(passed, with_kwargs=True)
    try:
        with patch.object(Local, "draw", watched):
            yield count
    finally:
        hook.remove()


def ours(setting: Setting, task: Task, seed: int) -> Outcome:
    models = Models(load(setting.model, device="cpu"))
    method = grpo(setting.n, setting.length, setting.clip)
    run = Run(
        steps=setting.steps, rows=setting.rows, lr=setting.lr, grad_clip=setting.grad_clip,
        weight_decay=setting.weight_decay, seed=seed,
    )  # fmt: skip
    training = Training(method, models, task, run)
    seconds, rewards = [], []
    with counting(models.policy) as counted:
        for _ in range(setting.steps):
            started = time.perf_counter()
            _, line = training.advance()
            seconds.append(time.perf_counter() - started)
            rewards.append(line["reward"])
    return Outcome(models.policy, seconds, models.ledger.counts(), counted, rewards)


def trl(setting: Setting, task: Task, seed: int, shared: bool) -> Outcome:
    """TRL's trainer; with `shared` it is fed the tokens that our engine draws from its weights."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lm = load(setting.model, device="cpu")
    models = Models(lm)
    problems = setting.problems(task, seed)

    def reward(prompts, completions, number, **_):
        texts = [message["content"] for [message] in completions]
        return task.score([problems[i] for i in number], texts)

    def rollout(prompts, trainer):
        heads = [lm.render(prompt) for prompt in prompts]
        draw = seed * 1_000_003 + trainer.state.global_step
        found = complete(models, heads[:: setting.n], setting.n, setting.length, Law(), draw)
        completions = [each.ids for group in found for each in group]
        return {"prompt_ids": heads, "completion_ids": completions, "logprobs": None}

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            seconds.append(-time.perf_counter())

        def on_step_end(self, *args, **kwargs):
            seconds[-1] += time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder, max_steps=setting.steps, per_device_train_batch_size=setting.rows,
            num_generations=setting.n, max_completion_length=setting.length,
            learning_rate=setting.lr, lr_scheduler_type="constant", optim="adamw_torch",
            weight_decay=setting.weight_decay, max_grad_norm=setting.grad_clip,
            loss_type="grpo", epsilon=setting.clip, beta=0.0, scale_rewards="group",
            shuffle_dataset=False, gradient_checkpointing=False, bf16=False, use_cpu=True,
            seed=seed, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        rows = {
            "prompt": [task.prompt(problem) for problem in problems],
            "number": list(range(len(problems))),
        }
        trainer = GRPOTrainer(
            lm.model, reward, config, Dataset.from_dict(rows), processing_class=lm.tokenizer,
            callbacks=[Clock()], rollout_func=rollout if shared else None,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        drawn = {name: getattr(trainer.generation_config, name) for name in neutral}
        assert drawn == neutral, f"TRL would sample with {drawn}"
        assert trainer.generation_config.min_p is None
        rendered = trainer._tokenize_prompts(rows["prompt"])[0]
        assert rendered == [lm.render(prompt) for prompt in rows["prompt"]], "other prompts"
        trainer.train()
    lm.model.eval()
    steps = [line for line in trainer.state.log_history if "completions/mean_length" in line]
    generated = sum(line["completions/mean_length"] for line in steps) * setting.rows
    counted = Counter(generated=round(generated), seen=round(steps[-1]["num_tokens"]))
    rewards = [line["reward"] for line in steps]
    return Outcome(lm, seconds, models.ledger.counts(), counted, rewards)


def flat(lm: LM) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in lm.model.parameters()])


def apart(setting: Setting, one: Outcome, other: Outcome) -> float:
    """Distance of two arms' weights over the distance that the first went from the start."""
    gone = flat(one.lm) - flat(load(setting.model, device="cpu"))
    return float((flat(one.lm) - flat(other.lm)).norm() / gone.norm())


@dataclass
class Report:
    """What was seen at the start, and of each arm a list over seeds (`seconds`: over all steps)."""

    start: dict[str, Any]
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    generated: Counter[str] = field(default_factory=Counter)
    ledger: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    apart: list[float] = field(default_factory=list)

    def accuracy(self, name: str, metric: str) -> float:
        return float(np.mean([each["metrics"][metric] for each in self.seen[name]]))

    def scores(self, name: str) -> np.ndarray:
        """[seeds, problems], the share of right samples."""
        return np.array([np.mean(each["problems"]["sampled"], 1) for each in self.seen[name]])

    def compare(self, name: str, other: str) -> str:
        """The paired difference in words, and whether it is shown to be within the margin (two
        one-sided tests at 5% each: the 90% interval lies within the margin)."""
        one, two = self.scores(name), self.scores(other)
        draws = resample(*one.shape, np.random.default_rng(0))
        wide, narrow = (difference(one, two, draws, level) for level in (0.95, 0.9))
        each = draws.means(one - two)
        chance = max(float((each <= -MARGIN).mean()), float((each >= MARGIN).mean()))
        equal = (
            "equal" if narrow.low > -MARGIN and narrow.high < MARGIN else "not shown to be equal"
        )
        return (
            f"{name} - {other}: {100 * wide.value:+.2f} points, 95% interval "
            f"[{100 * wide.low:+.2f}, {100 * wide.high:+.2f}], 90% [{100 * narrow.low:+.2f}, "
            f"{100 * narrow.high:+.2f}]; {equal} within {100 * MARGIN:.0f} points "
            f"(two one-sided tests, p = {chance:.3f})"
        )

    def off(self) -> float:
        """Largest share by which a column of the ledger differs from its independent count."""
        return max(
            abs(ledger / count - 1) for pairs in self.ledger.values() for ledger, count in pairs
        )

    def rows(self) -> list[Row]:
        peer = f"TRL {metadata.version('trl')} GRPOTrainer"
        start = self.start["metrics"]["sampled"]
        rows = [Row("sampled accuracy, before", start, start, "the same model")]
        for metric in ("sampled", "greedy"):
            one, two = (self.accuracy(name, metric) for name in ("ours", "TRL"))
            rows.append(Row(f"{metric} accuracy", one, two, peer))
        one, two = (self.accuracy(name, "sampled") for name in ("ours", "shared"))
        rows.append(Row("sampled accuracy, shared tokens", one, two, f"{peer}, our engine"))
        rows.append(Row("generated tokens", self.generated["ours"], self.generated["TRL"], peer))
        one, two = (float(np.median(self.seconds[name])) for name in ("ours", "TRL"))
        rows.append(Row("seconds a step (median)", one, two, peer))
        for column, pairs in self.ledger.items():
            one, two = np.sum(pairs, 0).tolist()
            rows.append(Row(f"ledger: {column}", one, two, "counted beside the ledger"))
        return rows


def compare(setting: Setting, seeds: Sequence[int], problems: int, samples: int) -> Report:
    """Every arm with every seed, one after the other, so that all meet the same machine."""
    task = tiny_calculation()
    evaluation = Evaluation(task, task.test[:problems], samples, setting.length)
    report = Report(evaluation(Models(load(setting.model, device="cpu"))))
    for seed in seeds:
        arms = {
            "ours": ours(setting, task, seed),
            "TRL": trl(setting, task, seed, shared=False),
            "shared": trl(setting, task, seed, shared=True),
        }
        for name, outcome in arms.items():
            report.seen[name].append(evaluation(Models(outcome.lm)))
            report.seconds[name] += outcome.seconds
            report.generated[name] += outcome.counted["generated"]
        mine, shared = arms["ours"], arms["shared"]
        for column, count in mine.counted.items():
            report.ledger[column] += [(mine.ledger[column], count)]
        drawn = shared.ledger["generated"]
        read = drawn + setting.n * shared.ledger["prefilled"]
        report.ledger["generated, by TRL's metrics"] += [(drawn, shared.counted["generated"])]
        report.ledger["whole rows, by TRL's metrics"] += [(read, shared.counted["seen"])]
        report.apart.append(apart(setting, mine, shared))
        accuracies = ", ".join(
            f"{name} {found[-1]['metrics']['sampled']:.4f}" for name, found in report.seen.items()
        )
        print(
            f"seed {seed}: sampled accuracy {accuracies}; weights of ours and shared "
            f"{report.apart[-1]:.1e} of the way apart",
            flush=True,
        )
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where the ledger is off by more than the tolerance."""
    introduction, _, _ = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=introduction)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (default 3)")
    parser.add_argument("--steps", type=int, default=Setting.steps)
    parser.add_argument("--lr", type=float, default=Setting.lr)
    parser.add_argument("--problems", type=int, default=500, help="held-out problems (all: 500)")
    parser.add_argument("--samples", type=int, default=8, help="completions of each (default 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
    torch.set_num_threads(1)
    setting = Setting(options.steps, lr=options.lr)
    print(machine("trl", "accelerate"))
    print(f"{setting}, seeds 0 to {options.seeds - 1}, {options.problems} held-out problems")
    report = compare(setting, range(options.seeds), options.problems, options.samples)
    rows = report.rows()
    show("GRPO, ours and TRL's", rows)
    print(report.compare("ours", "TRL"))
    print(report.compare("ours", "shared"))
    print(f"largest difference of the ledger from a count beside it: {100 * report.off():.3f}%")
    if options.json is not None:
        write(options.json, rows)
    return int(report.off() > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
