"""Rollouts whose temperature follows the entropy of the next-token law.

Shapes: B rows, T columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float

from autodidact.batch import Batch
from autodidact.credits.quantile import everywhere, quantile
from autodidact.law import Heated, Law, log_entropy
from autodidact.method import Rollout
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Problem, Task
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample
from autodidact.view import plain

Marks = tuple[float, float, float]
"""`pivot`, `low` and `high` of `law.Heated`."""


@dataclass
class Memory:
    """What lasts from one call to the next.

    Attributes:
        marks: of the last batch, see `of_batch`; `None` before the first.
    """

    marks: Marks | None = None


@dataclass(frozen=True)
class Heating(Rollout):
    """n completions of each problem, hotter where the policy is unsure, see `law.Heated`.

    What counts as unsure is read off the batch of the call before; the first call draws from the
    plain law, and so does every call with gain=0, which is then `Sample`, or `WithSpread`.

    Streams: those of `Sample`, where `logp` is the law that was drawn from and `raw` that of the
    base temperature, with waves above 1 those of `WithSpread`, and `entropy` [B, T] of the policy
    at the base temperature.

    Source: adaptive temperature sampling of HAPO, arXiv 2509.16591.

    Attributes:
        waves: above 1, groups without spread are replaced from that many times as many problems.
        gain: how far the temperature may move, as a share of it.
        share: the quantile of log entropies from which tokens are heated.

    Raises:
        ValueError: as `Heated`, or a share outside 0 to 1.
    """

    n: int = 1
    length: int = 1024
    law: Law = field(default_factory=Law)
    waves: int = 1
    gain: float = 0.05
    share: float = 0.8
    legacy_sign: bool = False
    memory: Memory = field(default_factory=Memory, init=False, repr=False, compare=False)

    def __post_init__(self):
        at_least_one(n=self.n, length=self.length, waves=self.waves)
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} is a quantile: it must be from 0 to 1")
        heated(self.law, self.gain, (0.0, 0.0, 0.0))

    def problems(self, rows: int) -> int:
        return self._inner().problems(rows)

    def _inner(self) -> Sample | WithSpread:
        law, marks = self.law, self.memory.marks
        if marks is not None and self.gain:
            law = heated(law, self.gain, marks, self.legacy_sign)
        sample = Sample(self.n, self.length, law)
        return WithSpread(sample, self.waves) if self.waves > 1 else sample

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        batch = self._inner()(problems, models, task, seed)
        if not len(batch):
            return batch.put(entropy=torch.zeros(batch.ids.shape))
        with torch.no_grad():
            batch = batch.put(
                entropy=models.score(plain(batch), batch).entropy.to(batch.ids.device)
            )
        self.memory.marks = of_batch(batch.take("entropy"), batch.own, self.share)
        return batch

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint must hold."""
        return asdict(self.memory)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.memory.marks = None if state["marks"] is None else tuple(state["marks"])

    def fresh(self) -> Heating:
        return replace(self)


def heated(law: Law, gain: float, marks: Marks, legacy_sign: bool = False) -> Heated:
    """The law with a temperature that follows the entropy. Raises `ValueError` as `Heated`."""
    return Heated(
        law.temperature, law.top_k, law.top_p, law.min_p, gain, *marks, legacy_sign=legacy_sign
    )  # fmt: skip


def of_batch(
    entropy: Float[torch.Tensor, "B T"], own: Bool[torch.Tensor, "B T"], share: float = 0.8
) -> Marks:
    """A quantile and the extremes of log H, over the own tokens of all ranks."""
    logs = log_entropy(entropy)
    known = everywhere(logs[own])
    return float(quantile(logs, own, share)), float(known.min()), float(known.max())
