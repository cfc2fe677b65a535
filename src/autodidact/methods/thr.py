from __future__ import annotations

from autodidact.credits.group import Scale, group_advantage
from autodidact.credits.hidden_reward import hidden_reward, steered
from autodidact.groupwise import Words
from autodidact.law import Law
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample


@factory
def thr(
    n: int = 8,
    length: int = 1024,
    p: float = 0.1,
    tau: float | None = None,
    words: Words = "all",
    clip: float = 0.2,
    clip_high: float | None = None,
    kl: float = 1e-4,
    scale: Scale = "std",
    normalise: Normalise = "sequence",
    epochs: int = 1,
    waves: int = 3,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    kl_kind: KL = "k3",
) -> Method:
    """Token Hidden Reward: tokens count by how their gradient moves the right answers.

    THR_t = +-g_t^T M h_t, + in right rows and - in wrong ones, M = sum over the right rows i of
    the group of (1/T_i) sum_k g_k h_k^T, h the last hidden state, g = onehot - p: the gradient of
    their mean log-likelihoods in the head's weight (`groupwise.influence`);
    A_t = 1[|THR_t| > tau] (1 + sign(THR_t) p) A with A and L = -(1/B) sum_i (1/T_i) sum_t
    min(rho A_t, clip(rho, 1-clip, 1+clip_high) A_t) + kl * k3 of `grpo`.

    Source: Token Hidden Reward, arXiv 2510.03669; no code was released, and tau follows its parent
    NTHR, arXiv 2505.18830. It counts the head alone, as if the states were free.
    Needs: `answer`, and a task that says what is right. Detached: A_t, so M, g and h, which are
    those of the policy before the update.
    Shapes: one value per own token. Raises: ValueError for n < 2, p outside -1 to 1, or a batch
    of which no row can be judged right or wrong.
    Degenerates to: `grpo` for p=0 and tau=-1. Groups that are not mixed have THR = tau = 0: by
    default nothing is learned from them.

    Args:
        p: above 0 favours tokens that help the right answers, below 0 exploration; 0 only leaves
            out tokens without influence.
        tau: for all groups; by default the least, over the right rows, of the mean of g^T M h.
        words: "seen" counts words of the group only, which takes less memory.
        kl: weight of the divergence to the initial weights.
        clip, clip_high, scale, normalise, waves, kl_kind: as in `grpo`.
    """
    if n < 2 or not -1 <= p <= 1:
        raise ValueError(f"n={n} and p={p}: n must be at least 2, and p from -1 to 1")

    def credit(batch, models):
        batch = group_advantage(batch, scale)
        reward, least = hidden_reward(batch, models, words)
        shaped = batch.take("advantage") * steered(reward, least, p, tau)
        return batch.put(advantage=shaped, thr=reward)

    sample = Sample(n, length, Law(temperature, top_k, top_p))
    return policy_gradient(
        WithSpread(sample, waves) if waves > 1 else sample,
        credit,
        Surrogate(low=clip, high=clip_high, kl=kl, kl_kind=kl_kind),
        normalised(normalise, length),
        epochs=epochs,
    )
