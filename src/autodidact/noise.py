"""How noisy a method's gradient is: its variance from batch to batch, against its mean.

With g_1 .. g_M the gradients of M independent batches of the same size at the same weights, and m
their mean, the variance S = sum_i |g_i - m|^2 / (M - 1) is the trace of their covariance, and
|G|^2 = |m|^2 - S / M the squared length of the true gradient; both estimates are unbiased, so
that the second may fall below zero where noise is all there is. S / |G|^2 is the simple noise
scale (An Empirical Model of Large-Batch Training, arXiv 1812.06162), in batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autodidact.grade import graded
from autodidact.learn import gradients
from autodidact.method import Method
from autodidact.models import Models
from autodidact.problem import Task
from autodidact.train import problems_at


@dataclass(frozen=True)
class Noise:
    """What the batches say.

    Attributes:
        variance: S. square: |G|^2. tokens: generated for a batch, on average.
    """

    variance: float
    square: float
    tokens: float

    @property
    def scale(self) -> float | None:
        """Tokens that must be generated until signal and noise are equal: S / |G|^2 x tokens.

        `None` where these batches do not tell the gradient from zero.
        """
        return self.variance / self.square * self.tokens if self.square > 0 else None


def gradient_noise(
    method: Method, models: Models, task: Task, rows: int, batches: int, seed: int = 0
) -> Noise:
    """Measure it at the weights as they are. Nothing is updated and nothing is charged.

    Args:
        rows: of a batch, as in `Run`. batches: at least 2, each of other problems and draws.

    Raises:
        ValueError: fewer than 2 batches, or fewer than 2 with a row to learn from.
    """
    if batches < 2:
        raise ValueError(f"batches={batches}: a variance needs at least 2")
    total: torch.Tensor | None = None
    squares, used, tokens = 0.0, 0, 0
    count = method.rollout.problems(rows)
    with models.uncharged():
        for number in range(batches):
            problems = problems_at(task.train, number * count, count, seed)
            batch = method.rollout(problems, models, task, seed * 1_000_003 + number)
            batch = graded(batch, models)
            if not len(batch):
                continue
            parts = gradients(method, models, batch.to(models.policy.device)).policy
            flat = torch.cat([each.flatten() for each in parts]).double()
            total = flat if total is None else total + flat
            squares, used = squares + float(flat @ flat), used + 1
        tokens = models.ledger.generated
    if used < 2 or total is None:
        raise ValueError(f"{used} of {batches} batches had a row to learn from; 2 are needed")
    mean = float(total @ total) / used**2
    variance = (squares - used * mean) / (used - 1)
    return Noise(variance, mean - variance / used, tokens / batches)
