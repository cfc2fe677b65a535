"""Divergences between two next-token laws, token by token.

Notation: q the teacher's law (never differentiated), p the student's, both as log-probabilities
[n, V]. The tables of which combination has which gradient, and the pointwise clip, are checked by
enumeration in `tests/test_divergence.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float

from autodidact.names import choose

Kind = Literal["forward", "reverse", "jsd", "tv"]


@dataclass(frozen=True)
class Divergence:
    """Which divergence, over the whole vocabulary.

    forward  KL(q||p) = sum_v q log(q/p)          mean-seeking; gradient in the logits is p - q
    reverse  KL(p||q) = sum_v p log(p/q)          mode-seeking
    jsd      b KL(q||m) + (1-b) KL(p||m),  m = b q + (1-b) p      (GKD, 2306.13649)
    tv       sum_v |p - q| / 2 = 1 - acceptance of speculative decoding

    Attributes:
        beta: b of the JSD, strictly between 0 and 1; its limits are `forward` and `reverse`
            only after division by b or 1-b.
        rescale: divide the JSD by b(1-b). Then its limits are the KL forms, and its curvature
            at p = q is theirs for every b, so that one learning rate suits all.
        clip: pointwise clip tau of OPSD (2601.18734): every summand is cut at tau from above.
            Negative summands are never cut, so a small tau pushes *away* from the teacher.
    """

    kind: Kind = "forward"
    beta: float = 0.5
    rescale: bool = False
    clip: float | None = None

    def __post_init__(self):
        choose("divergence", self.kind, get_args(Kind))
        if self.kind == "jsd" and not 0 < self.beta < 1:
            raise ValueError(
                f"beta={self.beta} is not strictly between 0 and 1; its ends are the divergences "
                "'forward' (towards 0) and 'reverse' (towards 1)"
            )
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be positive, or None for no clip")

    def summands(
        self, student: Float[torch.Tensor, "n V"], teacher: Float[torch.Tensor, "n V"]
    ) -> Float[torch.Tensor, "n V"]:
        """The terms whose sum over the vocabulary is the divergence, clipped where asked."""
        if self.kind == "forward":
            terms = teacher.exp() * (teacher - student)
        elif self.kind == "reverse":
            terms = student.exp() * (student - teacher)
        elif self.kind == "tv":
            terms = (student.exp() - teacher.exp()).abs() / 2
        else:
            b = self.beta
            middle = torch.logaddexp(teacher + math.log(b), student + math.log1p(-b))
            terms = b * teacher.exp() * (teacher - middle)
            terms = terms + (1 - b) * student.exp() * (student - middle)
            if self.rescale:
                terms = terms / (b * (1 - b))
        return terms if self.clip is None else terms.clamp(max=self.clip)
