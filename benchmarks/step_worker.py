"""One side of `benchmarks.step`, in a process of its own.

`python -m benchmarks.step_worker CASE` reads the case as JSON, takes its steps and prints what was
seen of each as JSON. V words, P tokens of a prompt, T of a completion, B completions.

Both sides get the same random Qwen3, tokenizer, problems in the same order and learning rate, in
float32. The end token is a word that the model does not have: every completion has all its T.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from autodidact.method import Method
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.model import LM
from autodidact.models import Models
from autodidact.problem import Message, Problem, Task
from autodidact.run import Run
from autodidact.train import Training, problems_at
from benchmarks.measuring import peak, started, timed
from benchmarks.random_model import random_qwen

LR, GRAD_CLIP = 1e-4, 1.0
PEERS = {"GRPO": "GRPOTrainer", "OPSD": "SDFTTrainer", "OPD": "DistillationTrainer"}
"""The trainer of TRL that makes the same step. OPD: another model, frozen, is the teacher."""


@dataclass(frozen=True)
class Case:
    """What is measured: `steps` after a first one. `side` is "ours" or "TRL"."""

    side: str
    method: str
    words: int
    rows: int = 32
    length: int = 64
    prompt: int = 32
    steps: int = 5
    seed: int = 0
    threads: int = 1
    hidden: int = 256
    layers: int = 4

    @property
    def n(self) -> int:
        """Completions of a prompt."""
        return min(8, self.rows) if self.method == "GRPO" else 1


@dataclass(frozen=True)
class Step:
    """What is seen of a step: seconds on the clock and of the processor, and what it did."""

    wall: float
    cpu: float
    tokens: float
    loss: float
    grad_norm: float


def network(case: Case, seed: int) -> Any:
    """Its config declares no end token of its own."""
    return random_qwen(case.hidden, case.layers, case.words, None, seed)


def tokenizer(words: int) -> Any:
    """Words "w1", "w2" and so on between spaces; the padding is word 0, the end is word V."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0} | {f"w{i}": i for i in range(1, words)} | {"<end>": words}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def even(texts: Sequence[str]) -> list[float | None]:
    """The reward: the share of words such as "w16" whose number is even."""
    numbers = [[int(word[1:]) for word in text.split()] for text in texts]
    return [sum(n % 2 == 0 for n in row) / max(1, len(row)) for row in numbers]


def task_of(case: Case) -> Task:
    """Problems of P random words with a solution of as many; a new one for every step's prompt."""
    count = (case.steps + 1) * case.rows // case.n
    random = torch.Generator().manual_seed(case.seed)
    drawn = torch.randint(1, case.words, (2, count, case.prompt), generator=random).tolist()
    texts = [[" ".join(f"w{i}" for i in row) for row in rows] for rows in drawn]
    problems = [Problem(question, solution) for question, solution in zip(*texts, strict=True)]

    def prompt(problem: Problem) -> list[Message]:
        return [{"role": "user", "content": problem.question}]

    def privileged(problem: Problem) -> list[Message]:
        return [{"role": "user", "content": f"{problem.question}\n\n{problem.solution}"}]

    reads = privileged if case.method == "OPSD" else prompt
    return Task("words", problems, [], prompt, reads, reward=lambda _, texts: even(texts))


def method_of(case: Case, teacher: str) -> Method:
    if case.method == "GRPO":
        return grpo(case.n, case.length)
    return opsd(case.n, case.length, "reverse", teacher=teacher)


def ours(case: Case, folder: Path) -> tuple[list[Step], float]:
    """Every step, and the peak of memory above that before the first."""
    models = Models(
        LM(
            network(case, 0),
            tokenizer(case.words),
            "random Qwen3",
        )
    )
    role = "policy"
    if case.method == "OPD":
        role = str(folder)
        network(case, 1).save_pretrained(folder)
        models.policy.tokenizer.save_pretrained(folder)
        assert not models[role].model.training, "it is read before the first step"
    run = Run(case.steps + 1, rows=case.rows, lr=LR, grad_clip=GRAD_CLIP, seed=case.seed)
    training = Training(method_of(case, role), models, task_of(case), run)
    steps: list[Step] = []
    before = started("cpu")
    for _ in range(case.steps + 1):
        drawn = models.ledger.generated
        (_, line), wall, cpu = timed("cpu", training.advance)
        tokens = models.ledger.generated - drawn
        steps.append(Step(wall, cpu, tokens, line["loss"], line["grad_norm"]))
    return steps, peak("cpu") - before


def settings(case: Case, folder: Path) -> dict[str, Any]:
    """What the three configurations of TRL share; what they do not mention is left as it is."""
    return {
        "output_dir": str(folder), "max_steps": case.steps + 1,
        "per_device_train_batch_size": case.rows, "max_completion_length": case.length,
        "learning_rate": LR, "lr_scheduler_type": "constant", "weight_decay": 0.0,
        "max_grad_norm": GRAD_CLIP, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "shuffle_dataset": False, "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
        "seed": case.seed, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def trainer_of(case: Case, folder: Path, problems: Sequence[Problem]) -> Any:
    from datasets import Dataset

    rows = [{"prompt": each.question, "privileged_context": each.solution} for each in problems]
    given = Dataset.from_list(rows), None, tokenizer(case.words)
    model, shared = (
        network(case, 0),
        settings(case, folder),
    )
    if case.method == "GRPO":
        from trl import GRPOConfig, GRPOTrainer

        plain = GRPOConfig(
            **shared, num_generations=case.n, loss_type="grpo", beta=0.0, scale_rewards="group"
        )
        return GRPOTrainer(model, lambda completions, **_: even(completions), plain, *given)
    if case.method == "OPSD":
        from trl.experimental.sdft import SDFTConfig, SDFTTrainer

        live = SDFTConfig(
            **shared, num_generations=1, teacher_model_kind="live", distillation_alpha=1.0,
            distillation_mode="full_logits", distillation_is_clip=None,
        )  # fmt: skip
        return SDFTTrainer(model, live, *given)
    from trl import DistillationConfig, DistillationTrainer

    other = network(case, 1)
    return DistillationTrainer(model, other, DistillationConfig(**shared, beta=1.0), *given)


def trl(case: Case, folder: Path) -> tuple[list[Step], float]:
    """As `ours`. A step lasts from `on_step_begin` to `on_step_end`: without TRL's own log."""
    from transformers import PrinterCallback, TrainerCallback

    task = task_of(case)
    clocks: list[tuple[float, float]] = []
    before: list[float] = []
    problems = problems_at(task.train, 0, len(task.train), case.seed)
    trainer = trainer_of(case, folder, problems)
    same_prompts(trainer, task, problems[:2])

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            if not before:
                before.append(started("cpu"))
            clocks.append((time.perf_counter(), time.process_time()))

        def on_step_end(self, *args, **kwargs):
            wall, cpu = clocks[-1]
            clocks[-1] = time.perf_counter() - wall, time.process_time() - cpu

    trainer.add_callback(Clock())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    most = peak("cpu") - before[0]
    lines = [line for line in trainer.state.log_history if "grad_norm" in line]
    sizes = [line["completions/mean_length"] * case.rows for line in lines]
    return [
        Step(*clock, tokens, line["loss"], line["grad_norm"])
        for clock, tokens, line in zip(clocks, sizes, lines, strict=True)
    ], most


def same_prompts(trainer: Any, task: Task, problems: Sequence[Problem]) -> None:
    """That both sides' student and teacher read the same tokens."""
    lm, texts = LM(trainer.model, trainer.processing_class), [each.question for each in problems]
    wanted = [lm.render(task.prompt(problem)) for problem in problems]
    if hasattr(trainer, "teacher_context_builder"):
        hints = [problem.solution for problem in problems]
        texts += trainer.teacher_context_builder.select_generation_prompts(texts, hints)
        wanted += [lm.render(task.privileged(problem)) for problem in problems]
    found = trainer._tokenize_prompts(texts)
    assert (found[0] if isinstance(found, tuple) else found) == wanted, "other prompts"


def measure(case: Case) -> dict[str, Any]:
    """`Step` by `Step`, the first apart, and the peak of memory in bytes."""
    torch.set_num_threads(case.threads)
    with tempfile.TemporaryDirectory() as folder:
        (first, *steps), most = (ours if case.side == "ours" else trl)(case, Path(folder))
    return {"first": asdict(first), "steps": [asdict(step) for step in steps], "bytes": most}


def command(case: Case) -> list[str]:
    return [sys.executable, "-m", "benchmarks.step_worker", json.dumps(asdict(case))]


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))
