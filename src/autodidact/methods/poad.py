from __future__ import annotations

from typing import Literal, get_args

import torch

from autodidact import calls
from autodidact.credits.returns import gae
from autodidact.credits.spans import Spans
from autodidact.credits.value import Critic, HeadKind, token_rewards
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, Rollout, factory
from autodidact.names import choose
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.turns import Turns

Discount = Literal["action", "token"]


@factory
def poad(
    tool: str | None = None,
    n: int = 1,
    turns: int = 4,
    length: int = 256,
    stop: str | None = None,
    discount: Discount = "action",
    gamma: float = 0.95,
    lam: float = 0.95,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual: float | None = None,
    kl: float = 0.0,
    entropy: float = 0.01,
    head: HeadKind = "linear",
    role: str = "initial",
    value_lr: float = 1e-4,
    value_clip: float | None = 0.2,
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """POAD: PPO for agents that discounts between actions, never between tokens of one action.

    d_t = r_t + gamma_t V_{t+1} - V_t;  A_t = d_t + gamma_t lam A_{t+1}, then whitened;
    gamma_t = 1 inside a turn, and gamma from its last token to the first of the next;
    L = -mean_t min(rho A, clip(rho, 1-clip, 1+clip_high) A) - entropy H_t. So the values at the
    beginnings of turns obey the Bellman equation of whole actions, however these are split.

    Source: Reinforcing Language Agents via Policy Optimization with Action Decomposition,
    arXiv 2405.15821. The reward of a row stands at its end, and the value loss is squared, not
    Huber's. The release also skips steps with a large KL and standardises without advantages that
    are exactly 0; neither is done here.
    Needs: `answer`. Detached: as `ppo`. Turns are read from the stream `turn` of the rollout.
    Shapes: one value per own token.
    Raises: ValueError for a tool that cannot be imported, an unknown discount, and as `ppo`.
    Degenerates to: `ppo` with gamma=1 for one turn; NTPO for discount="token".

    Args:
        tool: what answers a turn, package.module:function or FILE.py:function, which takes the
            problem and the texts so far, see `rollouts.turns`; none for a single turn.
        turns, length: turns of a row, tokens of a turn.
        stop: text that ends a turn, beside the end token.
        discount: "action" as in the paper; "token" discounts at every token (NTPO).
        gamma, lam: discount and trace of the advantages.
        entropy: weight of a bonus for the entropy of the law.
        clip, clip_high, dual, kl, correct, cap: as in `ppo`.
        head, role, value_lr, value_clip, normalise: as in `ppo`.
    """
    choose("discount", discount, get_args(Discount))
    critic, law = Critic(role, value_lr, head, clip=value_clip), Law(temperature)
    ends = () if stop is None else (stop,)
    rollout: Rollout = Sample(n, length, law)
    if tool is not None:
        rollout = Turns(calls.function(tool), n, turns, length, ends, law)

    def credit(batch, models):
        batch = critic.read(batch, models)
        turn = batch.streams.get("turn", batch.own.long())
        actions = Spans(torch.where(batch.own, turn - 1, -1))
        between = batch.own if discount == "token" else actions.last
        values = batch.take("value")
        rates = torch.where(between, gamma, torch.ones_like(values))
        rewards = token_rewards(batch, models, kl)
        return critic.target(batch, *gae(rewards, values, batch.own, rates, lam))

    method = policy_gradient(
        rollout,
        credit,
        Surrogate(low=clip, high=clip_high, dual=dual, correct=correct, cap=cap, entropy=entropy),
        normalised(normalise, length),
        epochs=epochs,
    )
    return critic.beside(method, *(("initial",) if kl else ()))
