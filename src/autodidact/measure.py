"""What is measured on every step, from scores that the loss has computed anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.scores import Scores

BY_PRODUCTS = ("entropy", "tv", "negative", "teacher_entropy", "cosine", "mass", "teacher_mass")


@dataclass
class Tally:
    """Means over all own tokens of a batch, gathered piece by piece.

    entropy, teacher_entropy: of the next-token laws, nats. tv: total variation to the teacher.
    negative: share of tokens whose divergence a clip, or a raw top-k, made negative. cosine: of
    the gradient in the logits with a clip to that without. mass, teacher_mass: what student and
    teacher give to the words of a top-k. signal: mean size of what a token is told.
    mismatch_mean, mismatch_max: |log p of the trainer - log p of the sampler| at the tokens
    sampled. ess: effective sample size of the ratios of the two, as a share.
    """

    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    largest: float = 0.0
    ratios: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    notes: dict[str, float] = field(default_factory=dict)

    def note(self, **values: float) -> None:
        self.notes.update(values)

    def add(self, name: str, values: Float[torch.Tensor, "B T"]) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())

    def piece(
        self, batch: Batch, scores: Mapping[str, Scores], signal: Float[torch.Tensor, "B T"]
    ) -> None:
        notes = scores["policy"].notes
        self.tokens += int(batch.own.sum())
        self.add("signal", signal.abs())
        for name in BY_PRODUCTS:
            if name in notes:
                self.add(name, notes[name])
        if "raw" in batch.streams and "logp" in notes:
            gap = (notes["logp"] - batch.take("raw"))[batch.own].double()
            self.sums["mismatch_mean"] = self.sums.get("mismatch_mean", 0.0) + float(
                gap.abs().sum()
            )
            self.largest = max(self.largest, float(gap.abs().max()))
            ratio = gap.exp()
            parts = (ratio.numel(), float(ratio.sum()), float((ratio**2).sum()))
            self.ratios = [old + new for old, new in zip(self.ratios, parts, strict=True)]

    def means(self) -> dict[str, float]:
        found = {name: value / max(self.tokens, 1) for name, value in self.sums.items()}
        count, total, squares = self.ratios
        if count:
            found |= {"mismatch_max": self.largest, "ess": total**2 / (count * squares)}
        return self.notes | found


def spread(batch: Batch) -> float | None:
    """Share of the groups whose known rewards differ; `None` without a group of two."""
    reward, group = batch.take("reward"), batch.group
    differing, groups = 0, 0
    for number in group.unique().tolist():
        known = reward[group == number]
        known = known[~known.isnan()]
        if int((group == number).sum()) > 1:
            groups += 1
            differing += len(known) > 1 and bool((known != known[0]).any())
    return differing / groups if groups else None
