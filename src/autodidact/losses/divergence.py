"""How a divergence to a teacher becomes a gradient.

At one token, with p the student's law, q the teacher's (held constant), y the token sampled from
p, and a_v the weight of word v: 1 - q_v/p_v for forward, log(p_v/q_v) for reverse, and so on (see
`Divergence.at_token`). What people write, and what its gradient is on average:

direct, the whole vocabulary      exact
direct, top-k, with a tail        exact for the laws in which the words outside are one word
direct, top-k, renormalised       exact for the laws given that the word is in the list
direct, top-k, raw                forward and reverse: pulls on the mass of the list, refused
policy gradient, top-k, raw       sum over the list of p_v a_v grad log p_v: the part of the exact
                                  gradient that these words have
policy gradient, sampled          a_y grad log p_y: exact
k1: log p_y/q_y, backpropagated   zero: noise that knows nothing of the teacher, refused
k2: (log p_y/q_y)^2 / 2, likewise exact for reverse
k3: q/p - log q/p - 1, likewise   exact for forward, though its value is that of reverse
abs: |log p_y/q_y|, likewise      of no divergence, refused
a sum over words as the           zero, as it is the same for all tokens that could have been
  advantage of the token          sampled, refused

Every line is checked by enumeration in `tests/test_distill.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float

from autodidact.batch import Batch
from autodidact.divergence import CENTRE, Divergence
from autodidact.names import choose

if TYPE_CHECKING:
    from autodidact.scores import Scores

EstimatorKind = Literal["direct", "policy_gradient", "advantage", "k1", "k2", "k3", "abs"]


@dataclass(frozen=True)
class Estimator:
    """A divergence, and how it becomes a gradient.

    direct           differentiate the sum over the words of the support
    policy_gradient  sum of p_v a_v grad log p_v over the words of the support, or a_y grad log p_y
                     of the sampled token, with the weights held constant
    advantage        -a_y is added to the advantage of another loss, see `advantage`; alone it is
                     the policy gradient
    k2, k3           the policy gradient of reverse and of forward at the sampled token, under the
                     names of the losses that have it when they are backpropagated
    k1, abs          refused

    Attributes:
        ratio_clip: weigh each token by p(y) / mu(y), mu the law that it was sampled from, cut at
            this bound (2 in SDPO, 2601.20802; `inf` for no bound). It corrects the law of the
            token, not that of the tokens before it. `None` takes the tokens as the student's own.
        discount: g of the return: token t also answers for what follows it, by
            sum_{u>t} g^(u-t) log(p_u/q_u) grad log p_t. At 1 it is the exact gradient of the
            reverse divergence of whole texts (MiniLLM, 2306.08543), with much more variance; at 0
            every token answers for itself. Over the whole vocabulary the log-ratios to come are
            replaced by their means, the divergences there.

    Raises:
        ValueError: the expected gradient would be zero or wrong, with the reason.
    """

    divergence: Divergence
    kind: EstimatorKind = "direct"
    ratio_clip: float | None = None
    discount: float = 0.0

    def __post_init__(self):
        choose("estimator", self.kind, get_args(EstimatorKind))
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount={self.discount} must be between 0 and 1")
        if self.ratio_clip is not None and self.ratio_clip < 1:
            raise ValueError(
                f"ratio_clip={self.ratio_clip} must be at least 1, the ratio of a token that the "
                "student itself sampled; or None for no ratio"
            )
        if self.kind == "advantage" and self.ratio_clip is not None:
            raise ValueError(
                f"ratio_clip={self.ratio_clip} with estimator 'advantage': the loss that takes the "
                "advantage has a ratio of its own; take ratio_clip=None"
            )
        sampled = self.divergence.support.words == "sampled"
        reason = _refused_sampled(self) if sampled else _refused_listed(self)
        if reason is None and self.discount and self.divergence.kind != "reverse":
            reason = (
                f"discount={self.discount} with the {self.divergence.kind!r} divergence: only the "
                "reverse divergence of whole texts is a sum along the student's own tokens, and "
                "has later tokens in its gradient; take divergence 'reverse', or discount=0"
            )
        if reason is not None:
            raise ValueError(reason)

    @property
    def measured(self) -> Divergence:
        """The divergence whose gradient, as `Scores.divergence` takes it, is this estimator's."""
        centred = self.divergence.centred or self.kind == "policy_gradient"
        return replace(self.divergence, centred=centred)


def distill(
    student: Scores, teacher: Scores, batch: Batch, estimator: Estimator
) -> Float[torch.Tensor, "B T"]:
    """The divergence at every token, with the gradient of the estimator; 0 where none was asked.

    The values are those of the divergence over its words, or an unbiased estimate at the sampled
    token; times the ratio, if any. The teacher, ratios and returns are detached.

    Raises:
        ValueError: a ratio is wanted, and the batch has no stream `logp` [B, T], the
            log-probability under which each token was sampled.
    """
    if estimator.ratio_clip is not None:
        student = replace(student, weight=None)  # the ratio makes it another one
    values = student.divergence(teacher, estimator.measured)
    logp, other = student.notes["logp"], student.notes["teacher_logp"]
    if estimator.discount:
        divergence = estimator.divergence
        whole = divergence.support.words == "full" and divergence.clip is None
        cost = values.detach() if whole else logp - other
        chosen = student.logp
        later = _later(cost, student.asked, estimator.discount)
        values = values + later * (chosen - chosen.detach())
    if estimator.ratio_clip is not None:
        gap = torch.where(student.asked, logp - batch.take("logp"), 0.0)
        values = values * gap.exp().clamp(max=estimator.ratio_clip)
    return values


@torch.no_grad()
def advantage(student: Scores, teacher: Scores, estimator: Estimator) -> Float[torch.Tensor, "B T"]:
    """What the teacher's opinion adds to the advantage of each token: -a_y, log(q/p) for reverse.

    In -A grad log p it is the gradient of the divergence. With a discount it is the return. 0
    where nothing was asked; no gradient.
    """
    assert estimator.kind == "advantage"
    _, told = estimator.divergence.at_token(_logp(student), _logp(teacher))
    if estimator.discount:
        told = told + _later(told, student.asked, estimator.discount)
    return torch.where(student.asked, -told, 0.0)


def _logp(scores: Scores) -> Float[torch.Tensor, "B T"]:
    """Detached log-probabilities, from an earlier sweep if there was one."""
    if "logp" not in scores.notes:
        scores.read("logp")
    return scores.notes["logp"]


def _later(
    cost: Float[torch.Tensor, "B T"], asked: Bool[torch.Tensor, "B T"], discount: float
) -> Float[torch.Tensor, "B T"]:
    """sum_{u>t} discount^(u-t) cost_u over the asked tokens of the row, which alone count."""
    found, running = torch.zeros_like(cost), cost.new_zeros(len(cost))
    for column in reversed(range(cost.shape[1])):
        found[:, column] = running
        here = discount * (cost[:, column] + running)
        running = torch.where(asked[:, column], here, running)
    return found


def _refused_sampled(estimator: Estimator) -> str | None:
    """Why this estimator has no right gradient at the sampled token; `None` if it has."""
    kind, divergence = estimator.kind, estimator.divergence.kind
    if kind == "k1" or (kind == "direct" and divergence == "reverse"):
        return (
            f"estimator {kind!r} backpropagates through log p/q of the sampled token: its expected "
            "gradient is zero whatever the teacher says, as E[grad log p] = 0; take "
            "'policy_gradient', which holds the log-ratio constant"
        )
    if kind == "direct":
        return (
            f"estimator 'direct' backpropagates through the estimate of the {divergence!r} "
            "divergence at the sampled token, as if the token had not been drawn from the student: "
            "its expected gradient is not that of the divergence; take 'policy_gradient'"
        )
    if kind == "abs":
        return (
            "estimator 'abs' backpropagates through |log p/q| of the sampled token: its expected "
            "gradient is that of no divergence; take 'policy_gradient'"
        )
    right = {"k2": "reverse", "k3": "forward"}.get(kind, divergence)
    if right != divergence:
        return (
            f"estimator {kind!r} has the expected gradient of the {right!r} divergence, and "
            f"{divergence!r} was asked for; take divergence {right!r}, or 'policy_gradient'"
        )
    return None


def _refused_listed(estimator: Estimator) -> str | None:
    """Why this estimator has no right gradient over the whole vocabulary, or over a top-k."""
    kind, divergence, support = (
        estimator.kind, estimator.divergence.kind, estimator.divergence.support
    )  # fmt: skip
    if kind == "advantage":
        return (
            f"estimator 'advantage' with support {support.words!r}: a divergence summed over words "
            "is the same for every token that could have been sampled there, so as an advantage "
            "its expected gradient is zero; take support 'sampled', or estimator 'direct'"
        )
    if kind in ("k1", "k2", "k3", "abs"):
        return (
            f"estimator {kind!r} reads the sampled token only, and the support is "
            f"{support.words!r}; take estimator 'direct'"
            + (", or support 'sampled'" if kind in ("k2", "k3") else "")
        )
    raw = support.listed and support.form == "raw" and not estimator.divergence.centred
    if kind == "direct" and raw and CENTRE[divergence]:
        how = {
            "reverse": "and a word rises only where q > e p",
            "forward": "and every word of the list rises at the cost of the others",
        }[divergence]
        return (
            f"estimator 'direct' with a raw top-k of the {divergence!r} divergence: its gradient "
            f"also pulls on the mass of the list, does not vanish at student = teacher, {how}; "
            "take form 'tail' or 'renormalised', or estimator 'policy_gradient'"
        )
    return None
