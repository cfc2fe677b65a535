from __future__ import annotations

from dataclasses import replace

from autodidact.divergence import Divergence
from autodidact.losses.weights import sequence_mean
from autodidact.method import Method, factory
from autodidact.rollouts.given import Given


@factory
def otr(kappa: float = 1.3, beta: float = -0.1) -> Method:
    """One-token rollout: each word of a solution is a bandit, its arms the policy's own words.

    L = -(1/T) sum_t sum_a sg[p'(a) R(a)] log p(a), p' the policy at temperature kappa, R = 1 for
    the word of the solution and beta for all others; mean over rows. The paper draws 256 words a
    from p'; this is what that is on average, the sum over all words:
    beta (KL(p' || p) + H(p')) - (1 - beta) p'(y_t) log p(y_t), p' detached.

    Source: One-Token Rollout, arXiv 2509.26313. Its kappa is slightly above 1, its beta slightly
    below 0; the exact numbers here are remembered, not read.
    Needs: `solution`. Nothing is drawn. Detached: p' and R.
    Shapes: one value per own token, in nats.
    Raises: ValueError unless kappa > 0 and beta < 1, and before the run on problems without a
    solution.
    Degenerates to: for kappa=1 the gradient of -(1 - beta) sg[p(y_t)] log p(y_t), dynamic
    fine-tuning, so that beta is but a factor; certain words teach nothing.

    Args:
        kappa: temperature at which words are tried; above 1 tries more of the unlikely ones.
        beta: reward of every other word.
    """
    if not (kappa > 0 and beta < 1):
        raise ValueError(f"kappa={kappa} and beta={beta}: kappa is above 0, beta below 1")

    def loss(scores, batch):
        policy = replace(scores["policy"], weight=None)  # the loss is no multiple of one divergence
        warm = replace(policy, temperature=policy.temperature * kappa, notes={})
        cross = policy.divergence(warm, Divergence("forward")) + policy.notes["teacher_entropy"]
        tried = policy.notes["teacher_logp"].exp() * batch.own
        return beta * cross - (1 - beta) * tried * policy.logp

    return Method(
        Given(), loss, weigh=sequence_mean, needs=("solution",), signal_name="OTR loss (nats)"
    )
