"""Divergences between two next-token laws, token by token, and over which words they are taken.

Notation: q the teacher's law (never differentiated), p the student's, as log-probabilities. Every
divergence is a sum over words of terms f(log p_v, log q_v); its gradient follows from their
slopes s_v = d f_v / d log p_v: in the logits it is s - p sum_v s_v. How it becomes the gradient
of a loss, and which combinations are refused: `autodidact.losses.divergence`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float

from autodidact.names import choose

Kind = Literal["forward", "reverse", "jsd", "tv"]
Words = Literal["full", "student", "teacher", "union", "intersection", "sampled"]
Form = Literal["raw", "renormalised", "tail"]
ClipKind = Literal["pointwise", "symmetric", "token"]

CENTRE = {"forward": -1.0, "reverse": 1.0, "jsd": 0.0, "tv": 0.0}
"""s_v / p_v at p = q. Over the whole vocabulary a constant times p_v has no gradient; over a part
of it, it moves mass in or out although the laws agree."""

FAR = 80.0
"""Nats at which a ratio of probabilities is cut, as float32 cannot hold e^89."""


@dataclass(frozen=True)
class Support:
    """The words that a divergence runs over.

    full           the whole vocabulary
    student        the k likeliest of the student
    teacher        the k likeliest of the teacher
    union          those in either list
    intersection   those in both
    sampled        the token itself, as one draw from the student's law

    Attributes:
        k: length of the lists.
        form: "raw" takes the terms of these words as they are; "renormalised" first makes each
            law sum to one over them (a single word is then sure, and tells nothing); "tail" adds
            one more word for all others together.
    """

    words: Words = "full"
    k: int = 100
    form: Form = "tail"

    def __post_init__(self):
        choose("words", self.words, get_args(Words))
        choose("form", self.form, get_args(Form))
        if self.k < 1:
            raise ValueError(f"k={self.k} words are no support; at least 1 is needed")
        if self.listed and self.form == "renormalised" and self.k == 1:
            raise ValueError(
                "one word, renormalised, has probability one under both laws: value and gradient "
                "are always zero; take k of 2 or more, or form 'tail'"
            )

    @property
    def listed(self) -> bool:
        """Whether `k` and `form` mean anything."""
        return self.words not in ("full", "sampled")


@dataclass(frozen=True)
class Divergence:
    """Which divergence, over which words.

    forward  KL(q||p) = sum_v q log(q/p)          mean-seeking; gradient in the logits is p - q
    reverse  KL(p||q) = sum_v p log(p/q)          mode-seeking
    jsd      b KL(q||m) + (1-b) KL(p||m),  m = b q + (1-b) p      (GKD, 2306.13649)
    tv       sum_v |p - q| / 2 = 1 - acceptance of speculative decoding

    Attributes:
        beta: b of the JSD, strictly between 0 and 1; its limits are `forward` and `reverse`
            only after division by b or 1-b.
        rescale: divide the JSD by b(1-b). Then its limits are the KL forms, and its curvature
            at p = q is theirs for every b, so that one learning rate suits all.
        clip: bound tau, see `clip_kind`.
        clip_kind: "pointwise" is OPSD's (2601.18734): every term is cut at tau from above. A term
            that is cut has no slope, and negative ones, of words that the student likes too much,
            never are: with U the words kept, forward has the gradient q(U) p - q 1_U. It deletes
            what the teacher wants more of, and a small tau pushes *away* from the teacher.
            "symmetric" cuts the terms to [-tau, tau]. "token" cuts the value of the token, which
            then has no gradient.
        support: the words.
        centred: the gradient of the policy-gradient form, sum_v p_v a_v grad log p_v with
            a_v = s_v / p_v - its value at p = q held constant. Over the whole vocabulary that is
            the plain gradient. Over raw parts of it, it leaves out the pull on their mass. A clip
            sets a_v to 0 where it cuts: forward then lowers no word that the teacher prefers.
    """

    kind: Kind = "forward"
    beta: float = 0.5
    rescale: bool = False
    clip: float | None = None
    clip_kind: ClipKind = "pointwise"
    support: Support = Support()
    centred: bool = False

    def __post_init__(self):
        choose("divergence", self.kind, get_args(Kind))
        choose("clip_kind", self.clip_kind, get_args(ClipKind))
        if self.kind == "jsd" and not 0 < self.beta < 1:
            raise ValueError(
                f"beta={self.beta} is not strictly between 0 and 1; its ends are the divergences "
                "'forward' (towards 0) and 'reverse' (towards 1)"
            )
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be positive, or None for no clip")
        if self.clip is not None and self.support.words == "sampled":
            raise ValueError(
                f"clip={self.clip} cuts terms of a sum over words, and the sampled token is no "
                "sum: what is left has the gradient of no divergence; take another support, or "
                "bound the importance ratio"
            )

    def terms(
        self, student: Float[torch.Tensor, "*n"], teacher: Float[torch.Tensor, "*n"]
    ) -> tuple[Float[torch.Tensor, "*n"], Float[torch.Tensor, "*n"]]:
        """The terms f_v before any clip, and their slopes d f_v / d log p_v."""
        p, q = student.exp(), teacher.exp()
        if self.kind == "forward":
            return q * (teacher - student), -q
        if self.kind == "reverse":
            terms = p * (student - teacher)
            return terms, terms + p
        if self.kind == "tv":
            return (p - q).abs() / 2, p * (p - q).sign() / 2
        b = self.beta
        # Where both underflow the terms are 0 whatever the middle is, as long as it is finite.
        middle = (b * q + (1 - b) * p).clamp(min=torch.finfo(p.dtype).tiny).log()
        slopes = (1 - b) * p * (student - middle)
        terms = b * q * (teacher - middle) + slopes
        scale = 1 / (b * (1 - b)) if self.rescale else 1.0
        return terms * scale, slopes * scale

    def measure(
        self, student: Float[torch.Tensor, "n V"], teacher: Float[torch.Tensor, "n V"]
    ) -> tuple[
        Float[torch.Tensor, "n"], Float[torch.Tensor, "n V"], Float[torch.Tensor, "n V"] | None
    ]:
        """Value, slopes, and where a clip has changed those, the slopes without it."""
        terms, plain = self.terms(student, teacher)
        value = terms.sum(-1)
        if self.centred:
            plain = plain - CENTRE[self.kind] * student.exp()
        if self.clip is None:
            return value, plain, None
        if self.clip_kind == "token":
            return value.clamp(max=self.clip), plain * (value < self.clip)[:, None], plain
        least = -self.clip if self.clip_kind == "symmetric" else -math.inf
        kept = (terms > least) & (terms < self.clip)
        return terms.clamp(least, self.clip).sum(-1), plain * kept, plain

    def at_token(
        self, student: Float[torch.Tensor, "*n"], teacher: Float[torch.Tensor, "*n"]
    ) -> tuple[Float[torch.Tensor, "*n"], Float[torch.Tensor, "*n"]]:
        """What one word y ~ p tells, given its two log-probabilities.

        Returns an estimate of the divergence, and a_y = s_y / p_y - its value at p = q, with
        E[a_y grad log p_y] the gradient: 1 - q/p for forward, log(p/q) for reverse. As terms are
        homogeneous, f(p, q) = p f(1, q/p). The estimate is f(p, q) / p plus the multiple of
        q/p - 1, whose mean is zero, that makes it never negative (k3 for reverse).
        """
        ratio = (teacher - student).clamp(max=FAR)
        terms, slopes = self.terms(torch.zeros_like(ratio), ratio)
        centre = CENTRE[self.kind]
        return terms + centre * ratio.expm1(), slopes - centre
