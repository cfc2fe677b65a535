"""What the tests beside TRL share: a record of its training loop, and our answer to the same."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainerCallback

from autodidact.batch import Batch
from autodidact.learn import backward
from autodidact.method import Method
from autodidact.models import Models

REASON = "TRL is not installed (pip install trl==1.16.0)"
DEPRECATED = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
"""TRL 1.16 uses a name that transformers 5.23 has renamed."""
FLOAT32 = 1e-4
"""Largest difference of two gradients allowed, as a share of the largest entry. Seen: 3e-5."""
Tensors = dict[str, torch.Tensor]


def settings(folder, **further):
    """Arguments of every trainer: plain float32 on the CPU, nothing written, no clipped gradient."""
    plain = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "learning_rate": 1e-4,
    }  # fmt: skip
    return plain | further


class Tape(TrainerCallback):
    """For each update: the weights before it, the gradient, and the loss of its micro-batches."""

    def __init__(self):
        self.weights: list[Tensors] = []
        self.gradients: list[Tensors] = []
        self.losses: list[float] = []

    def on_step_begin(self, args, state, control, model, **_):
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})
        self.losses.append(0.0)

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})


def answer(
    method: Method, batch: Batch, models: Models, weights: Tensors, micro_rows: int = 6
) -> tuple[float, Tensors]:
    """Our loss and gradient on a batch, at these weights of the policy."""
    policy = models.policy.model
    policy.load_state_dict(weights)
    policy.zero_grad()
    with torch.no_grad():
        batch = method.credit(batch, models)
        batch = batch.put(weight=method.weigh(batch))
    pieces = batch.split(micro_rows, method.unit)
    loss = sum(backward(method, models, piece, None) for piece in pieces)
    return loss, {name: p.grad for name, p in policy.named_parameters()}


def largest_gap(ours: Tensors, peer: Tensors) -> float:
    """Largest difference of two gradients, as a share of the largest entry."""
    assert ours.keys() == peer.keys()
    size = max(float(value.abs().max()) for value in peer.values())
    assert size > 0
    return max(float((ours[name] - peer[name]).abs().max()) for name in peer) / size
