from __future__ import annotations

import torch

from autodidact.credits.group import Scale, group_advantage
from autodidact.credits.novelty import embeddings, novelty
from autodidact.law import Law
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.votes import Votes


@factory
def evol_rl(
    n: int = 64,
    length: int = 1024,
    keep: int = 32,
    clip: float = 0.2,
    clip_high: float = 0.28,
    kl: float = 0.001,
    entropy: float = 0.003,
    scale: Scale = "std",
    normalise: Normalise = "sequence",
    epochs: int = 1,
    temperature: float = 1.0,
    kl_kind: KL = "k3",
) -> Method:
    """EVOL-RL: the majority decides the sign of a reward, novelty its size.

    R_i = 0.5 + 0.5 u_i for the majority's answer, -1 + 0.5 u_i for another, -1 without one, u_i
    how unlike the others a row is, from 0 to 1 on each side, see `credits.novelty`;
    A_i = (R_i - mean R) / (std R + 1e-4) over the `keep` rows;
    L = -(1/B) sum_i (1/T_i) sum_t [min(rho A, clip(rho, 1-clip, 1+clip_high) A) + entropy H_t]
    + kl k3, rho = p / mu.

    Source: Evolving Language Models without Labels: Majority Drives Selection, Novelty Promotes
    Variation, arXiv 2509.15194. A separate model embeds the texts there, here the initial weights;
    the script of the release has the entropy bonus and the higher clip switched off.
    Needs: the `question` alone; the task must find a `final` answer in a completion. Detached:
    rewards, so the votes and embeddings, advantages, the reference, old log-probabilities.
    Shapes: one value per own token.
    Raises: ValueError for keep < 2 or above n; when drawing, a task without `final`.
    Degenerates to: `ttrl` with an entropy bonus where all rows are equally novel and every row
    has an answer: rewards of two values, whatever they are, have the same advantages.

    Args:
        n: completions that vote on a problem.
        keep: how many of them, the first, are learned from, and compared.
        kl, kl_kind, scale, normalise: as in `grpo`.
        entropy: weight of a bonus for the entropy of p.
    """
    if keep < 2:
        raise ValueError(f"keep={keep}: a group needs at least 2 completions to compare")

    def credit(batch, models):
        side = batch.take("majority")
        bonus = novelty(embeddings(batch, models), batch.group, side) / 2
        wrong = torch.where(side < 0, -1.0, bonus - 1)
        return group_advantage(batch.put(reward=torch.where(side > 0, bonus + 0.5, wrong)), scale)

    return policy_gradient(
        Votes(n, length, keep, Law(temperature)),
        credit,
        Surrogate(low=clip, high=clip_high, kl=kl, kl_kind=kl_kind, entropy=entropy),
        normalised(normalise, length),
        epochs=epochs,
        needs=(),
        roles=("initial",),
    )
