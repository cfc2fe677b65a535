from __future__ import annotations

from autodidact.law import Law
from autodidact.losses.policy import nll
from autodidact.method import Method, factory
from autodidact.rollouts.choose import BestOf


@factory
def rft(
    n: int = 8,
    length: int = 1024,
    keep: int | None = None,
    least: float = 1.0,
    temperature: float = 1.0,
) -> Method:
    """Rejection-sampling fine-tuning: draw n answers, keep the verified ones, imitate them.

    L = -(1/N) sum_i 1[R_i >= least] sum_t log p(y_it), N the number of kept tokens. This is
    REINFORCE with rewards in {0, 1}, no baseline and no negatives.

    Source: Scaling Relationship on Learning Mathematical Reasoning, arXiv 2308.01825; STaR;
    ReST-EM. Here the samples come from the current policy at every step.
    Needs: `answer`. Detached: the choice of samples.
    Shapes: one value per own token, in nats.
    Raises: ValueError for `keep` outside 1..n, and before the run on problems without answers.
    Degenerates to: best-of-n imitation for keep=1; a step without a verified sample is skipped.

    Args:
        keep: distinct verified answers kept of each problem; all by default.
        least: the reward an answer must earn.
    """
    best = BestOf(n, length, n if keep is None else keep, least, Law(temperature))
    return Method(
        best, nll, needs=("answer",), stale=True, signal_name="negative log-likelihood (nats)"
    )
