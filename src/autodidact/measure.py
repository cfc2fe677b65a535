"""What is measured on every step, from scores that the loss has computed anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.scores import Scores

if TYPE_CHECKING:
    from autodidact.kinds import Kinds

BY_PRODUCTS = ("entropy", "tv", "negative", "teacher_entropy", "cosine", "mass", "teacher_mass")


@dataclass
class Tally:
    """Means over all own tokens of a batch, gathered piece by piece.

    entropy, teacher_entropy: of the next-token laws, nats. tv: total variation to the teacher.
    acceptance: 1 - tv, the share of the student's draws that the teacher accepts in speculative
    decoding. divergence_digits and so on: tv over the tokens of a kind, see `kinds`. negative:
    share of tokens whose divergence a clip, or a raw top-k, made negative. cosine: of the
    gradient in the logits with a clip to that without. mass, teacher_mass: what student and
    teacher give to the words of a top-k. signal: mean size of what a token is told; credited: share
    of tokens that are told anything.
    mismatch_mean, mismatch_max: |log p of the trainer - log p of the sampler| at the tokens
    sampled, before the first update on them, both without truncation. ess: effective sample size
    of the ratios of the two, as a share.

    Attributes:
        kinds: tells the kind of each token; `None` where that is not asked.
    """

    kinds: Kinds | None = None
    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    counts: dict[str, int] = field(default_factory=dict)
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
        self.add("credited", ((signal != 0) & batch.own).to(signal.dtype))
        for name in BY_PRODUCTS:
            if name in notes:
                self.add(name, notes[name])
        if self.kinds is not None and "tv" in notes:
            self.by_kind(batch, notes["tv"], self.kinds)
        # A surrogate of what a masked model wrote is not the law that a token was drawn from.
        if "raw" in batch.streams and "order" not in batch.streams and "logp" in notes:
            gap = (notes["logp"] - batch.take("raw"))[batch.own].double()
            self.sums["mismatch_mean"] = self.sums.get("mismatch_mean", 0.0) + float(
                gap.abs().sum()
            )
            self.largest = max(self.largest, float(gap.abs().max()))
            ratio = gap.exp()
            parts = (ratio.numel(), float(ratio.sum()), float((ratio**2).sum()))
            self.ratios = [old + new for old, new in zip(self.ratios, parts, strict=True)]

    def by_kind(self, batch: Batch, values: Float[torch.Tensor, "B T"], kinds: Kinds) -> None:
        """Add the values of the own tokens to the sums of their kinds."""
        values, kind = values[batch.own].double(), kinds(batch.ids[batch.own])
        sums = values.new_zeros(len(kinds.names)).index_add(0, kind, values).tolist()
        counts = kind.bincount(minlength=len(kinds.names)).tolist()
        for each, value, count in zip(kinds.names, sums, counts, strict=True):
            name = f"divergence_{each}"
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        found = {
            name: value / max(self.counts.get(name, self.tokens), 1)
            for name, value in self.sums.items()
            if self.counts.get(name) != 0
        }
        if "tv" in found:
            found["acceptance"] = 1 - found["tv"]
        count, total, squares = self.ratios
        if count:
            found |= {"mismatch_max": self.largest, "ess": total**2 / (count * squares)}
        return self.notes | found


def describe(batch: Batch) -> dict[str, float | None]:
    """What a batch of rollouts looks like: rewards, lengths, ends; `None` where not known."""
    if not len(batch):
        return {}
    found: dict[str, float | None] = {
        "rows": len(batch), "length": float(batch.own.sum(1).float().mean())
    }  # fmt: skip
    for name, key in (("reward", "reward"), ("correct", "accuracy")):
        values = batch.streams.get(name)
        known = None if values is None else values[~values.isnan()]
        found[key] = float(known.mean()) if known is not None and len(known) else None
    if "reward" in batch.streams:
        found["unscorable"] = float(batch.take("reward").isnan().float().mean())
        found["spread"] = spread(batch)
    if "finished" in batch.streams:
        found["truncated"] = 1 - float(batch.take("finished").mean())
    return found


def staleness(batch: Batch, updates: int) -> float | None:
    """Updates made since those of the weights that drew the tokens, mean over own tokens.

    `None` where nothing was drawn: the batch has no stream `updates`.
    """
    if "updates" not in batch.streams:
        return None
    drawn = batch.take("updates").view(len(batch), -1).expand_as(batch.own)
    return float((updates - drawn[batch.own]).mean())


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
