"""What is measured on every step, from scores that the loss has computed anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    of the ratios of the two, as a share. kl: of the sampler to the trainer, nats, by the unbiased
    estimate ratio - 1 - log ratio, which is never below 0 (k3).

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
            ratio = gap.exp()
            self.sums["kl"] = self.sums.get("kl", 0.0) + float((gap.expm1() - gap).sum())
            if gap.numel():
                self.largest = _larger(self.largest, float(gap.abs().max()))
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
        if squares:
            found |= {"mismatch_max": self.largest, "ess": total**2 / (count * squares)}
        return self.notes | found


def _larger(one: float, other: float) -> float:
    """The larger number; NaN where either is, which `max` may hide."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def merged(tallies: Sequence[Tally]) -> Tally:
    """One tally of what several ranks have seen; the notes are the same on all."""
    found = Tally(notes=dict(tallies[0].notes))
    for each in tallies:
        for name, value in each.sums.items():
            found.sums[name] = found.sums.get(name, 0.0) + value
        for name, count in each.counts.items():
            found.counts[name] = found.counts.get(name, 0) + count
        found.tokens += each.tokens
        found.largest = _larger(found.largest, each.largest)
        found.ratios = [old + new for old, new in zip(found.ratios, each.ratios, strict=True)]
    return found


@dataclass(frozen=True)
class Rows:
    """What is told of the rows of a batch, a number each. Lists of several ranks are one.

    Attributes:
        group: of each row, with the rank that drew it. lengths: own tokens.
        values: the streams `reward`, `correct` and `finished`, where the batch has them.
        age: updates since the weights that drew the tokens, summed over own tokens; `None` where
            nothing was drawn.
    """

    group: list[tuple[int, int]]
    lengths: list[int]
    values: Mapping[str, list[float]]
    age: float | None

    @classmethod
    def of(cls, batch: Batch, updates: int, rank: int = 0) -> Rows:
        """Args: updates: made before the batch was learned from."""
        names = [name for name in ("reward", "correct", "finished") if name in batch.streams]
        age = None
        if "updates" in batch.streams:
            drawn = batch.take("updates")
            drawn = (drawn[:, None] if drawn.dim() == 1 else drawn).expand_as(batch.own)
            age = float((updates - drawn[batch.own]).sum())
        return cls(
            [(rank, number) for number in batch.group.tolist()],
            batch.own.sum(1).tolist(),
            {name: batch.take(name).tolist() for name in names},
            age,
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        parts = [part for part in parts if part.group] or parts[:1]
        return cls(
            [each for part in parts for each in part.group],
            [each for part in parts for each in part.lengths],
            {name: [x for part in parts for x in part.values[name]] for name in parts[0].values},
            None if parts[0].age is None else sum(part.age or 0.0 for part in parts),
        )


def describe(rows: Rows) -> dict[str, float | None]:
    """What a batch of rollouts looks like: rewards, lengths, ends; `None` where not known.

    staleness: updates made since those of the weights that drew the tokens, mean over own tokens.
    """
    count = len(rows.lengths)
    if not count:
        return {}
    found: dict[str, float | None] = {"rows": count, "length": sum(rows.lengths) / count}
    for name, key in (("reward", "reward"), ("correct", "accuracy")):
        known = [value for value in rows.values.get(name, []) if not math.isnan(value)]
        found[key] = math.fsum(known) / len(known) if known else None
    if "reward" in rows.values:
        found["unscorable"] = sum(map(math.isnan, rows.values["reward"])) / count
        found["spread"] = spread(rows)
    if "finished" in rows.values:
        found["truncated"] = 1 - sum(rows.values["finished"]) / count
    if rows.age is not None:
        found["staleness"] = rows.age / sum(rows.lengths) if sum(rows.lengths) else 0.0
    return found


def spread(rows: Rows) -> float | None:
    """Share of the groups whose known rewards differ; `None` without a group of two."""
    members: dict[tuple[int, int], list[float]] = {}
    for number, reward in zip(rows.group, rows.values["reward"], strict=True):
        members.setdefault(number, []).append(reward)
    several = [rewards for rewards in members.values() if len(rewards) > 1]
    differing = [len({r for r in rewards if not math.isnan(r)}) > 1 for rewards in several]
    return sum(differing) / len(several) if several else None
