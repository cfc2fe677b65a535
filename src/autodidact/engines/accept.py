"""The rule of speculative sampling: which proposals stand, and what stands in place of the others.

Shapes: B rows, G proposals of each, V vocabulary. p is the law of the target and q that of the
draft, both as log-probabilities after temperature and truncation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int

from autodidact.law import draw
from autodidact.names import choose

Form = Literal["linear", "square", "exponential"]
FORMS: tuple[str, ...] = get_args(Form)


@dataclass(frozen=True)
class Lenience:
    """How the target's law is raised in the test of a proposal; share 1 leaves it as it is.

        linear: f(p) = p / e      square: f(p) = p / e^2      exponential: f(p) = p^e

    Source: DistillSpec, arXiv 2310.08461.

    Attributes:
        share: e, above 0 and at most 1.

    Raises:
        ValueError: any other share or form.
    """

    share: float = 1.0
    form: Form = "linear"

    def __post_init__(self):
        choose("form of lenience", self.form, FORMS)
        if not 0 < self.share <= 1:
            raise ValueError(
                f"lenience={self.share} is not allowed: it must be above 0 and at most 1"
            )

    @property
    def lossless(self) -> bool:
        return self.share == 1

    def __call__(self, p: Float[torch.Tensor, "*N"]) -> Float[torch.Tensor, "*N"]:
        """log f(p), which may be above 0."""
        if self.form == "exponential":
            return self.share * p
        return p - (1 if self.form == "linear" else 2) * log(self.share)


class Verdict(NamedTuple):
    """What is left of the proposals of each row.

    Attributes:
        tokens: the proposals, where the first rejected one is replaced.
        accepted: how many stand before the first rejected one, from 0 to G.
        gained: how many tokens the row gains: those, and the replacement if there is one.
    """

    tokens: Int[torch.Tensor, "B G"]
    accepted: Int[torch.Tensor, "B"]
    gained: Int[torch.Tensor, "B"]


def judge(
    p: Float[torch.Tensor, "B G V"],
    q: Float[torch.Tensor, "B G V"],
    proposed: Int[torch.Tensor, "B G"],
    test: Float[torch.Tensor, "B G"],
    instead: Float[torch.Tensor, "B G"],
    lenience: Lenience,
) -> Verdict:
    """Keep proposals x ~ q until the first that fails, and draw another word in its place.

        x stands with probability min(1, f(p(x)) / q(x)), else y ~ norm(max(0, p - q))

    Without lenience each token that is gained has exactly the law p; with it, see `behaviour`.

    Source: Leviathan, Kalman, Matias, arXiv 2211.17192; Chen et al., arXiv 2302.01318.

    Args:
        test, instead: uniform numbers for the test and for the other word.
    """
    own, theirs = (law.gather(2, proposed[..., None]).squeeze(2) for law in (p, q))
    stands = test < (lenience(own) - theirs).double().exp()
    accepted = stands.long().cumprod(1).sum(1)
    size = proposed.shape[1]
    row, at = torch.arange(len(p), device=p.device), accepted.clamp(max=size - 1)
    other = draw(_left_over(p[row, at], q[row, at]), instead[row, at])
    tokens = proposed.clone()
    tokens[row, at] = torch.where(accepted < size, other, proposed[row, at])
    return Verdict(tokens, accepted, (accepted + 1).clamp(max=size))


def behaviour(
    p: Float[torch.Tensor, "*N V"], q: Float[torch.Tensor, "*N V"], lenience: Lenience
) -> Float[torch.Tensor, "*N V"]:
    """The law of a token that `judge` lets pass or puts in, as log-probabilities.

        out(v) = m(v) + (1 - sum_u m(u)) r(v),  m = min(f(p), q),  r = norm(max(0, p - q))

    A word v is proposed and stands with probability q(v) min(1, f(p(v)) / q(v)) = m(v). The missing
    mass, sum_u q(u) - m(u), is rejected whatever the proposal was, and drawn from r. With f(p) = p
    it is the mass of max(0, p - q), and out = p. As f(p) is at least p, mass is rejected only where
    p and q differ, so that r exists.
    """
    if lenience.lossless:
        return p
    stands = torch.minimum(lenience(p), q).double().exp()
    # Word by word no rounding makes it negative, or 0 where a proposal can be rejected.
    rejected = (q.double().exp() - stands).sum(-1, keepdim=True)
    other = _left_over(p, q).double().exp()
    return (stands + rejected * other / other.sum(-1, keepdim=True)).log().to(p.dtype)


def _left_over(
    p: Float[torch.Tensor, "*N V"], q: Float[torch.Tensor, "*N V"]
) -> Float[torch.Tensor, "*N V"]:
    """The logarithm of max(0, p - q), without a norm; p where nothing is left.

    Nothing is left of equal laws only, of which rounding alone rejects a proposal.
    """
    left = (p.double().exp() - q.double().exp()).clamp(min=0)
    return torch.where(left.sum(-1, keepdim=True) > 0, left.log(), p.double())


def acceptance(
    p: Float[torch.Tensor, "*N V"],
    q: Float[torch.Tensor, "*N V"],
    lenience: Lenience = Lenience(),
) -> Float[torch.Tensor, "*N"]:
    """The probability that a proposal stands: sum_v min(f(p), q), without lenience 1 - TV(p, q).

    Source: arXiv 2211.17192, theorem 3.5.
    """
    return torch.minimum(lenience(p), q).double().exp().sum(-1)


def block_efficiency(acceptance: float, guess: int) -> float:
    """Tokens gained by one reading of the target, if proposals stand independently of each other.

        E = 1 + a + a^2 + ... + a^g = (1 - a^(g+1)) / (1 - a)

    In texts acceptances come in runs, and this says too much.

    Source: arXiv 2211.17192, equation 1.

    Args:
        guess: g, the proposals that are read; the last token needs no reading to be gained.
    """
    return sum(acceptance**power for power in range(guess + 1))
