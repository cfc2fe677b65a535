from __future__ import annotations

from autodidact.credits.group import group_mean, group_std
from autodidact.credits.prefix import branch_values
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.method import Method, factory, token_mean
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample

EPS = 1e-6


@factory
def tempo(
    n: int = 7,
    length: int = 1024,
    clip: float = 0.2,
    clip_high: float = 0.28,
    epochs: int = 1,
    waves: int = 1,
    temperature: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """TEMPO: the answers of a group are a tree of prefixes, and a branch earns what it changes.

    V(s) = mean {R_j : y_j begins with s}, the row's own reward included;
    A_it = [(R_i - mean R) + V(y_<=t) - V(y_<t)] / (std R + 1e-6), std with n - 1;
    L = -(1/sum_i T_i) sum_i sum_t min(rho A, clip(rho, 1-clip, 1+clip_high) A), rho = p / mu.

    Source: Exploiting Tree Structure for Credit Assignment in RL Training of LLMs,
    arXiv 2509.18314; its release divides as here, by the deviation of the group.
    Needs: `answer`. Detached: advantages, which ask no model, and old log-probabilities.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on problems without answers.
    Degenerates to: `dapo` with waves=1 but for the first token of each row, where no two rows
    share one, which then counts R_i - mean R twice; nothing is learned from equal rewards.

    Args:
        waves: above 1, groups without spread are replaced as in `dapo`.
        correct, cap: as in `grpo`; not of the paper.
    """
    if n < 2:
        raise ValueError(f"n={n}: a tree needs at least 2 completions to branch")
    sample = Sample(n, length, Law(temperature))

    def credit(batch, models):
        reward = batch.take("reward")
        outcome = (reward - group_mean(reward, batch.group))[:, None]
        scale = group_std(reward, batch.group)[:, None] + EPS
        advantage = ((outcome + branch_values(batch)) / scale).nan_to_num()
        return batch.put(advantage=advantage * batch.own)

    return policy_gradient(
        WithSpread(sample, waves) if waves > 1 else sample,
        credit,
        Surrogate(low=clip, high=clip_high, correct=correct, cap=cap),
        token_mean,
        epochs=epochs,
    )
