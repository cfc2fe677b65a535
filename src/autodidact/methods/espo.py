from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autodidact.batch import Batch
from autodidact.credits.group import Scale, group_advantage
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.likelihood import LEAST, Likelihood, Values
from autodidact.losses.policy import Surrogate, of_rows, policy_gradient
from autodidact.losses.weights import sequence_mean
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.scores import Scores


@factory
def espo(
    n: int = 6,
    length: int = 256,
    steps: int | None = 128,
    block: int | None = 32,
    order: Order = "confidence",
    draws: int = 2,
    clip: float = 0.2,
    kl: float = 0.01,
    scale: Scale = "none",
    epochs: int = 8,
    temperature: float = 0.9,
) -> Method:
    """ESPO: the whole answer of a masked model is one action, and the ELBO stands for its log p.

    s_i = exp((ELBO_i - ELBO_old_i) / T_i), A_i = R_i - mean R of the group, T_i own tokens;
    L = -(1/B) sum_i min(s_i A_i, clip(s_i, 1-clip, 1+clip) A_i) + kl (ELBO_i - ELBO_ref_i)^2 / 2T_i
    ELBO = mean over draws of 1/2 [sum_{t in M} lp_t / u + sum_{t not in M} lp_t / (1 - u)]: u is
    uniform, each token is in M by chance u, and the second sum hides exactly the others. Policy,
    old and reference read the same canvases.

    Source: Principled RL for Diffusion LLMs Emerges from a Sequence-Level Perspective,
    arXiv 2512.03759. The release leaves the own reward out of the mean, which scales all A_i of a
    group by n/(n-1), draws sizes of M instead of u, and draws new canvases for each update.
    Not the same: BGPO (2510.11683), which for A >= 0 replaces exp(d) by 1 + d so that draws can
    be read one after the other; its value and gradient at d = 0 are those of s.
    Needs: `answer`. Detached: advantages, ELBO_old and the reference.
    Shapes: one value per own token, the same along a row.
    Raises: ValueError for n < 2, and before the run on a causal model or problems without answers.
    Degenerates to: REINFORCE on the ELBO over T_i for epochs=1 and kl=0.

    Args:
        steps, block, order: how rollouts are written, see `engines.denoise`.
        draws: pairs of canvases of an answer.
        clip: the ratio of an answer counts within 1 - clip and 1 + clip only.
        kl: weight of the penalty; it is one of whole answers too.
        scale: "std" divides A by the standard deviation of the group.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(steps, block, order)),
        lambda batch, models: group_advantage(batch, scale),
        _Answers(
            level="sequence", low=clip, kl=kl, kl_kind="k2",
            reading=Likelihood("complement", draws=draws, between=(LEAST, 1 - LEAST)),
        ),
        sequence_mean,
        epochs=epochs,
    )  # fmt: skip


@dataclass(frozen=True)
class _Answers(Surrogate):
    """A surrogate whose penalty is one of whole answers."""

    def loss(self, scores: Mapping[str, Scores], batch: Batch) -> Values:
        now, then = self.reading.laws(scores, batch)
        value = self._surrogate(now, then, batch)
        if self.kl == 0:
            return value
        reference = self.reading.logp(scores, batch, "reference")
        gap = of_rows(now, reference, batch.own, each=False)
        return value + self.kl * batch.own.sum(1, keepdim=True) * gap**2 / 2
