from __future__ import annotations

from autodidact.credits.returns import gae
from autodidact.credits.value import Critic, HeadKind, token_rewards
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample


@factory
def ppo(
    n: int = 1,
    length: int = 1024,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual: float | None = 3.0,
    kl: float = 0.0,
    gamma: float = 1.0,
    lam: float = 1.0,
    head: HeadKind = "linear",
    role: str = "initial",
    value_lr: float = 1e-4,
    value_clip: float | None = 0.5,
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """Proximal Policy Optimization with a value head and generalised advantages.

    r_t = -kl log(p_old(y_t) / p_initial(y_t)), and R at the last token of the policy;
    d_t = r_t + gamma V_{t+1} - V_t;  A_t = d_t + gamma lam A_{t+1}, then whitened over the batch;
    L = -mean_t min(rho A, clip(rho, 1-clip, 1+clip_high) A), at most -dual A where A < 0; the
    head learns 0.5 max((V - G)^2, (clip(V, V_old +- value_clip) - G)^2), G_t = A_t + V_t before
    the whitening. Steps go from one token of the policy to its next: tool output is passed over.

    Source: Proximal Policy Optimization Algorithms, arXiv 1707.06347; advantages of arXiv
    1506.02438, dual clip of arXiv 1912.09729. Defaults as verl for verifiable rewards.
    Needs: `answer`. Detached: advantages, returns, old values, and the states that the head reads.
    Shapes: one value per own token.
    Raises: ValueError for an unknown head, a cap < 1, and before the run on problems without
    answers.
    Degenerates to: REINFORCE with the baseline V for gamma=lam=1 and epochs=1 (A = G - V), up to
    the whitening; nothing is learned where V is the reward everywhere.

    Args:
        clip, clip_high, correct, cap: as in `grpo`.
        dual: bound of the loss of a negative advantage; none for no bound.
        kl: weight of the divergence to the initial weights, in the reward.
        gamma, lam: discount and trace of the advantages; RLHF takes lam=0.95.
        head: "linear" or "mlp".
        role: whose last states the head reads; "policy" for those of the weights in training.
        value_lr, value_clip: of the head, which learns once on each batch.
        normalise: as in `grpo`.
    """
    critic = Critic(role, value_lr, head, clip=value_clip)

    def credit(batch, models):
        batch = critic.read(batch, models)
        rewards = token_rewards(batch, models, kl)
        return critic.target(batch, *gae(rewards, batch.take("value"), batch.own, gamma, lam))

    method = policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate(low=clip, high=clip_high, dual=dual, correct=correct, cap=cap),
        normalised(normalise, length),
        epochs=epochs,
    )
    return critic.beside(method, *(("initial",) if kl else ()))
