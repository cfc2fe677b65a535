from __future__ import annotations

from typing import Literal, get_args

import torch

from autodidact.credits.group import group_mean
from autodidact.law import Law
from autodidact.losses.importance import both_laws
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.names import choose
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample

Omega = Literal["one", "failure", "root"]
LEAST, MOST, FAR = 0.02, 0.98, 10.0
"""Bounds of a success rate, and of a log-ratio, as in the release."""


@factory
def nft(
    n: int = 16,
    length: int = 1024,
    omega: Omega = "failure",
    neg_weight: float = 1.0,
    least: float = 1.0,
    floor: float = 1.0,
    normalise: Normalise = "constant",
    epochs: int = 1,
    waves: int = 3,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Method:
    """Negative-aware fine-tuning: wrong answers are imitated by a policy made of the right ones.

    With r the success rate of a question, mu = r p+ + (1-r) p-, so p-/mu = (1 - r rho)/(1 - r),
    rho = p/mu. L = -omega (1/length) sum_t log rho_t of a right answer, and
    L = -omega neg_weight (1/length) sum_t log max'((1 - r rho_t)/(1 - r), floor) of a wrong one,
    mean over rows, where max' has the value of the maximum and the slope of its first argument.

    Source: Bridging Supervised Learning and Reinforcement Learning in Math Reasoning,
    arXiv 2505.18116. The release divides by 1000, here it is `length`.
    Needs: `answer`. Detached: r, omega, old log-probabilities. Signal: A, the slope at rho = 1.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, an unknown omega, neg_weight < 0 or floor <= 0, and before the
    run on problems without answers.
    Degenerates to: at rho = 1 `dr_grpo` for "failure", `grpo` with the std of n instead of n - 1
    and eps=0 for "root"; imitation of the right answers (`rft`) for neg_weight=0.

    Args:
        omega: weight of a question: 1, "failure" 1 - r, or "root" sqrt((1 - r) / r).
        neg_weight: of wrong answers.
        least: the reward of a right answer.
        floor: a word cannot be pushed harder than with 1/floor of its slope.
        waves: at most this many times the problems of a step are tried to find groups with spread.
    """
    choose("omega", omega, get_args(Omega))
    if n < 2 or neg_weight < 0 or floor <= 0:
        raise ValueError(
            f"n={n}, neg_weight={neg_weight} and floor={floor}: allowed are 2 or more, 0 or more, "
            "and above 0"
        )

    def credit(batch, models):
        reward = batch.take("reward")
        right = torch.where(reward.isnan(), reward, (reward >= least).to(reward.dtype))
        share = group_mean(right, batch.group)
        rate = share.clamp(LEAST, MOST)
        odds = (1 - rate) / rate
        size = {"one": torch.ones_like(rate), "failure": 1 - rate, "root": odds.sqrt()}[omega]
        advantage = torch.where(right == 1, size, -neg_weight * size / odds)
        mixed = (share > 0) & (share < 1) & ~right.isnan()
        advantage = torch.where(mixed, advantage, 0.0)[:, None] * batch.own
        return batch.put(advantage=advantage, rate=rate)

    def loss(scores, batch):
        now, then = both_laws(scores["policy"], batch)
        gap = (now - then).clamp(max=FAR)
        advantage, rate = batch.take("advantage"), batch.take("rate")[:, None]
        implied = (1 - rate * gap.exp()) / (1 - rate)
        raised = implied + (implied.clamp(min=floor) - implied).detach()
        wrong = advantage * (1 - rate) / rate * raised.log()
        return torch.where(advantage > 0, -advantage * gap, wrong) * batch.own

    sample = Sample(n, length, Law(temperature, top_k, top_p))
    return Method(
        WithSpread(sample, waves) if waves > 1 else sample, loss, credit,
        weigh=normalised(normalise, length), needs=("answer",), epochs=epochs, stale=True,
        signal=lambda scores, batch, values: batch.take("advantage"), signal_name="advantage",
    )  # fmt: skip
