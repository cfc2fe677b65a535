from __future__ import annotations

from autodidact.credits.flow import Flow, flow_penalty, off_flow
from autodidact.credits.group import Scale, group_advantage
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.names import at_least_one
from autodidact.rollouts.sample import Sample


@factory
def rlfr(
    n: int = 8,
    length: int = 1024,
    flow: float = 0.01,
    threshold: float = 0.6,
    most: int = 15,
    at: float = 0.8,
    blocks: int = 6,
    role: str = "initial",
    value_lr: float = 1e-4,
    clip: float = 0.2,
    clip_high: float | None = None,
    scale: Scale = "std",
    normalise: Normalise = "sequence",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """RLFR: GRPO with a fine on tokens whose hidden states leave the flow of right answers.

    h_t, h_{t-1}: states after and before a token at 1/4, 1/2 and 3/4 of the layers; e noise;
    s_t = at/(1-at) mean (v(at h_t + (1-at) e, at, h_{t-1}) - (h_t - e))^2, scaled to 0 to 1 in the
    row, 0 up to the threshold and beyond the `most` highest;
    A_t = A_group - flow sum_{s >= t} s_s;
    L = -(1/B) sum_i (1/T_i) sum_t min(rho A_t, clip(rho, 1-clip, 1+clip_high) A_t). The network v
    then learns (v(x_tau, tau, h_{t-1}) - (h_t - e))^2 on right answers, tau = sigmoid of a normal.

    Source: RLFR: Extending Reinforcement Learning for LLMs with Flow Environment, arXiv 2510.10201.
    It first trains v on given solutions, which is left out: v begins with the first right answers.
    The release learns online at tau = `at` alone, and takes another context in training than in
    the score; here they agree.
    Needs: `answer`. Detached: advantages, noise, states.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, `at` not between 0 and 1, blocks or most < 1, and before the run
    on problems without answers.
    Degenerates to: `grpo` for flow=0. A fine at one token lowers all tokens before it: long rows
    pay more.

    Args:
        flow: weight of the fine.
        threshold, most: which tokens pay.
        at: time of the flow at which they are judged.
        blocks, value_lr: of the network v.
        role: whose states are read; "policy" for those of the weights in training.
        clip, clip_high, scale, normalise, correct, cap: as in `grpo`.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if not 0 < at < 1:
        raise ValueError(f"at={at} is not allowed: a time of the flow lies between 0 and 1")
    at_least_one(most=most, blocks=blocks)
    net = Flow(role, value_lr, blocks=blocks, at=at)

    def credit(batch, models):
        batch = net.read(group_advantage(batch, scale), models)
        fined = off_flow(net.score(batch), batch.own, threshold, most)
        return batch.put(advantage=batch.take("advantage") + flow_penalty(fined, batch.own, flow))

    method = policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate(low=clip, high=clip_high, correct=correct, cap=cap),
        normalised(normalise, length),
        epochs=epochs,
    )
    return net.beside(method)
