"""What a sweep over the vocabulary can be asked.

Shapes: n tokens, V vocabulary, K words of a support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int

from autodidact.divergence import Divergence

NOTED = ("logp", "entropy")
"""Left behind by every sweep, as they cost nothing there."""

LOWEST = -1e30
"""Log-probability of what is no word of a support, and of the tail where one leaves none: finite,
as 0 * inf is not a number, and below that of any word."""


class Question(Protocol):
    """What is asked of the laws of a chunk. Hashable, as it is compiled once for each value."""

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the differentiable answers."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Names of the other answers."""
        ...

    def __hash__(self) -> int: ...

    def answer(
        self,
        logp: Float[torch.Tensor, "n V"],
        logq: Float[torch.Tensor, "n V"] | None,
        targets: Int[torch.Tensor, "n"],
        pull: Float[torch.Tensor, "m n"] | None,
    ) -> tuple[
        list[Float[torch.Tensor, "n"]],
        list[Float[torch.Tensor, "n"]],
        Float[torch.Tensor, "n V"] | None,
    ]:
        """Values, notes, and d (sum_m pull_m value_m) / d logits where `pull` is given.

        `logp` is the student's law, `logq` the teacher's, if any; the logits are the student's
        after the temperature.
        """
        ...


def _quantity(name: str, logp: torch.Tensor, p: torch.Tensor, targets: torch.Tensor):
    """The value [n] of that name, and its slope in log p: [n, V], a number, or `None` for none."""
    if name == "entropy":
        terms = p * logp
        return -terms.sum(-1), -(terms + p)
    if name == "self_certainty":
        words = logp.shape[-1]
        return -logp.mean(-1) - math.log(words), -1 / words
    chosen = logp.gather(-1, targets[:, None])
    if name == "logp":
        return chosen.squeeze(-1), torch.zeros_like(logp).scatter(-1, targets[:, None], 1.0)
    assert name == "rank"
    return (logp > chosen).sum(-1).to(logp.dtype), None


@dataclass(frozen=True)
class Reading:
    """Quantities of one law: `logp`, `entropy`, `rank`, `self_certainty`.

    With p the law: d logp / d logits = 1[v = target] - p, d entropy = -p (log p + H),
    d self-certainty = p - 1/V; the rank has no gradient.
    """

    values: tuple[str, ...]
    notes: tuple[str, ...] = NOTED

    def answer(self, logp, logq, targets, pull):
        p = logp.exp()
        found = [_quantity(name, logp, p, targets) for name in self.values]
        noted = [_quantity(name, logp, p, targets)[0] for name in self.notes]
        gradient = None
        if pull is not None:
            slopes = [
                each[:, None] * slope
                for each, (_, slope) in zip(pull, found, strict=True)
                if slope is not None
            ]
            gradient = through_softmax(sum(slopes, torch.zeros_like(p)), p)
        return [value for value, _ in found], noted, gradient


@dataclass(frozen=True)
class Within:
    """log p(x) - log sum_{v in S} p(v): the token's law renormalised over a list S of words.

    What a sweep calls the targets of a token are the token itself, then the words of its list,
    which hold it too, filled up with -1. d / d logits = 1[v = x] - 1[v in S] p_v / p(S).
    """

    values: tuple[str, ...] = ("within",)
    notes: tuple[str, ...] = NOTED

    def answer(self, logp, logq, targets, pull):
        token, words = targets[:, 0], targets[:, 1:]
        p = logp.exp()
        noted = [_quantity(name, logp, p, token)[0] for name in self.notes]
        inside = logp.gather(-1, words.clamp(min=0)).masked_fill(words < 0, LOWEST)
        mass = inside.logsumexp(-1, keepdim=True)
        chosen = logp.gather(-1, token[:, None])
        gradient = None
        if pull is not None:
            slope = torch.zeros_like(logp).scatter(-1, token[:, None], 1.0)
            slope = slope.scatter_add(-1, words.clamp(min=0), -(inside - mass).exp())
            gradient = pull[0][:, None] * slope
        return [(chosen - mass).squeeze(-1)], noted, gradient


@dataclass(frozen=True)
class Filtered:
    """KL(q || p), q the law p itself on the words above `share` of its likeliest, held fixed.

    q is renormalised over those words S, so the value is -log p(S), and d / d logits = p - q.
    Note `kept`: 1 where the token is one of those words.
    """

    share: float
    values: tuple[str, ...] = ("filtered",)
    notes: tuple[str, ...] = (*NOTED, "kept")

    def answer(self, logp, logq, targets, pull):
        p = logp.exp()
        noted = [_quantity(name, logp, p, targets)[0] for name in NOTED]
        least = math.log(self.share) if self.share > 0 else -torch.inf
        inside = logp > logp.amax(-1, keepdim=True) + least
        mass = logp.masked_fill(~inside, -torch.inf).logsumexp(-1)
        noted.append(inside.gather(-1, targets[:, None]).squeeze(-1).to(p.dtype))
        gradient = None
        if pull is not None:
            gradient = pull[0][:, None] * (p - inside * p / mass.exp()[:, None])
        return [-mass], noted, gradient


@dataclass(frozen=True)
class Comparison:
    """A divergence of the student's law to the teacher's, see `autodidact.divergence`.

    Over the sampled token the value is an estimate, and the gradient that of the policy-gradient
    form, which is right in the mean (`Divergence.at_token`).

    Notes: `logp` and `entropy` of both, `tv` over the whole vocabulary, `mass` and
    `teacher_mass` that the words of a top-k support hold, and with a clip `cosine`: of the
    gradient in the logits to the one without the clip (0 where either vanishes).
    """

    kind: Divergence

    @property
    def values(self) -> tuple[str, ...]:
        return ("divergence",)

    @property
    def notes(self) -> tuple[str, ...]:
        masses = ("mass", "teacher_mass") if self.kind.support.listed else ()
        cosine = () if self.kind.clip is None else ("cosine",)
        return ("logp", "entropy", "teacher_logp", "teacher_entropy", "tv", *masses, *cosine)

    def answer(self, logp, logq, targets, pull):
        p, q = logp.exp(), logq.exp()
        noted = [_quantity(name, logp, p, targets)[0] for name in NOTED]
        noted += [_quantity(name, logq, q, targets)[0] for name in NOTED]
        noted.append((p - q).abs().sum(-1) / 2)
        if self.kind.support.listed:
            value, found, masses = self._over_list(logp, logq, p)
            noted += masses
        elif self.kind.support.words == "sampled":
            value, each = self.kind.at_token(noted[0], noted[2])
            found = [torch.scatter_add(-p * each[:, None], -1, targets[:, None], each[:, None])]
        else:
            value, slopes, plain = self.kind.measure(logp, logq)
            found = [through_softmax(each, p) for each in (slopes, plain) if each is not None]
        if self.kind.clip is not None:
            clipped, plain = found
            noted.append(torch.cosine_similarity(clipped, plain, dim=-1))
        return [value], noted, None if pull is None else pull[0][:, None] * found[0]

    def _over_list(self, logp, logq, p):
        """Value, gradients in the logits (with and without a clip), and the two masses."""
        words, member = listed(self.kind.support.words, self.kind.support.k, logp, logq)
        one = logp.gather(-1, words).masked_fill(~member, LOWEST)
        two = logq.gather(-1, words).masked_fill(~member, LOWEST)
        masses = [each.exp().sum(-1) for each in (one, two)]
        form, rest = self.kind.support.form, None
        if form == "renormalised":
            one, two = one.log_softmax(-1), two.log_softmax(-1)
        elif form == "tail":
            rest, ours = _tail(logp, words, member)
            _, theirs = _tail(logq, words, member)
            one, two = torch.cat([one, ours], -1), torch.cat([two, theirs], -1)
        value, *slopes = self.kind.measure(one, two)
        found = []
        for each in slopes:
            if each is None:
                continue
            if form == "renormalised":
                into = through_softmax(each, one.exp()) * member
                found.append(torch.zeros_like(p).scatter_add(-1, words, into))
                continue
            slope = -p * each.sum(-1, keepdim=True)
            if rest is not None:
                # Of the words outside each takes its share of the tail's slope.
                slope = slope + rest * each[:, -1:]
            found.append(slope.scatter_add(-1, words, each[:, : words.shape[-1]] * member))
        return value, found, masses


def through_softmax(
    slopes: Float[torch.Tensor, "n V"], p: Float[torch.Tensor, "n V"]
) -> Float[torch.Tensor, "n V"]:
    """The gradient in the logits, given the slopes in their log-softmax."""
    return slopes - p * slopes.sum(-1, keepdim=True)


def listed(
    words: str, k: int, logp: Float[torch.Tensor, "n V"], logq: Float[torch.Tensor, "n V"]
) -> tuple[Int[torch.Tensor, "n K"], Bool[torch.Tensor, "n K"]]:
    """Ids of the words of a support, and which of the places hold a word of it (each one once)."""
    k = min(k, logp.shape[-1])
    if words in ("student", "teacher"):
        ids = (logp if words == "student" else logq).topk(k).indices
        return ids, torch.ones_like(ids, dtype=torch.bool)
    ours, theirs = logp.topk(k).indices, logq.topk(k).indices
    both = (ours[:, :, None] == theirs[:, None, :]).any(1)
    if words == "intersection":
        return theirs, both
    return torch.cat([ours, theirs], -1), torch.cat([torch.ones_like(both), ~both], -1)


def _tail(
    law: Float[torch.Tensor, "n V"],
    words: Int[torch.Tensor, "n K"],
    member: Bool[torch.Tensor, "n K"],
) -> tuple[Float[torch.Tensor, "n V"], Float[torch.Tensor, "n 1"]]:
    """The share of each word in the tail, and the log-probability of the tail as a whole.

    It is summed over its words, as one minus the mass of the others would cancel.
    """
    inside = torch.zeros_like(law).scatter_add(-1, words, member.to(law.dtype)) > 0
    outside = law.masked_fill(inside, -torch.inf)
    whole = outside.logsumexp(-1, keepdim=True).clamp(min=LOWEST)
    return (outside - whole).exp(), whole
