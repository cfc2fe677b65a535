"""What a run says of itself: the head of run.json, and lines of samples.jsonl."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autodidact.changes import digests
from autodidact.run import describe_machine, describe_versions, git_revision
from autodidact.spec import Spec

if TYPE_CHECKING:
    from autodidact.batch import Batch
    from autodidact.train import Training

SHOWN = 8
"""Completions of a step written to samples.jsonl."""


def call_of(spec: Spec, training: Training) -> dict[str, Any]:
    """What run.json says of a run when it starts."""
    policy = training.models.policy
    weights = list(policy.model.parameters())
    method = training.method
    return {
        "kind": "train",
        "method": {"name": method.name, "arguments": dict(method.arguments or {})},
        "model": {
            "path": spec.model,
            "kind": type(policy.base).__name__,
            "parameters": sum(p.numel() for p in weights),
            "trained": sum(p.numel() for p in weights if p.requires_grad),
            "words": policy.base.get_output_embeddings().weight.shape[0],
            "end": policy.end,
            "pad": policy.tokenizer.pad_token_id,
            "template": policy.tokenizer.chat_template is not None,
        },
        "task": {"name": training.task.name, "arguments": dict(spec.task.arguments)},
        "run": asdict(spec.run),
        "budget": {
            "column": spec.run.column if spec.run.budget else "optimizer_steps",
            "amount": spec.run.budget or spec.run.steps,
        },
        "seeds": [spec.run.seed],
        "spec": spec.describe(),
        "digests": digests(policy, training.task),
        "versions": describe_versions(),
        "git": git_revision(),
        "machine": describe_machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
    }


def samples_of(training: Training, batch: Batch, step: int) -> list[dict[str, Any]]:
    """Lines of samples.jsonl: the first completions of a batch, with what they earned."""
    from autodidact.grade import texts

    if not len(batch):
        return []
    shown = batch.select(list(range(min(SHOWN, len(batch)))))
    written = texts(shown, training.models)
    found = []
    for row, (problem, text) in enumerate(zip(shown.rows, written, strict=True)):
        values = {
            name: _known(shown.streams[name][row]) if name in shown.streams else None
            for name in ("correct", "reward")
        }
        correct = None if values["correct"] is None else bool(values["correct"])
        found.append(
            {
                "step": step, "question": problem.question, "completion": text,
                "answer": problem.answer, "reward": values["reward"], "correct": correct,
            }
        )  # fmt: skip
    return found


def _known(value: Any) -> float | None:
    return None if value.isnan() else float(value)
