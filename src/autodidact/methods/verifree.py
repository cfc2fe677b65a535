from __future__ import annotations

from typing import Literal, get_args

import torch

from autodidact.credits.group import group_mean, group_sum
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import constant
from autodidact.method import Method, factory
from autodidact.names import choose
from autodidact.rollouts.reference import Occurrence, Reference

AnswerWeight = Literal["reward", "advantage", "one"]


@factory
def verifree(
    n: int = 8,
    length: int = 3000,
    marker: str = "<answer",
    bridge: str = "> \\boxed{",
    occurrence: Occurrence = "first",
    answer: AnswerWeight = "reward",
) -> Method:
    """VeriFree: no verifier; reasoning is worth how likely it makes the reference answer.

    R_i = p(y* | x, z_i), z_i the policy's reasoning up to the marker; A_i = R_i - the mean R of
    the others of the group; L = -(1/B) sum_i [A_i log p(z_i | x) + R_i log p(y* | x, z_i)].
    Its gradient is on average that of -E_z p(y* | x, z), the policy's rate of success, and has
    never more variance than with a drawn answer and a reward of 0 or 1.

    Source: Reinforcing General Reasoning without Verifiers, arXiv 2505.21493.
    Needs: `answer`, short and unique: other ways to write it earn nothing.
    Detached: R and A. No ratio, no clip, no KL; sums over tokens, the mean over rows.
    Shapes: one value per own token, which the tokens of the given answer are too.
    Raises: ValueError for n < 2, an empty marker, an unknown `occurrence` or `answer`; when
    drawing, a row that does not fit the context with its answer.
    Degenerates to: likelihood of the answer given the reasoning, as in supervised training, where
    all reasonings of a group are worth the same; no gradient where no marker is ever written.

    Args:
        length: at most so many tokens of reasoning; without the marker by then R = 0.
        marker, bridge, occurrence: where the answer is put, see `rollouts.reference`; for terse
            sums marker="=", bridge="" and occurrence="last".
        answer: what the answer's own term is weighed by; "one" (as in JEPO) and "advantage" have
            another gradient.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    choose("answer", answer, get_args(AnswerWeight))

    def credit(batch, models):
        reward = batch.take("reward")
        size = group_sum(torch.ones_like(reward), batch.group)
        # R - mean of the others; a row that is alone has nothing to be compared with.
        plainly = (reward - group_mean(reward, batch.group)) * size / (size - 1).clamp(min=1)
        weight = {"reward": reward, "advantage": plainly, "one": torch.ones_like(reward)}[answer]
        given = batch.take("reference") == 1
        advantage = torch.where(given, weight[:, None], plainly[:, None])
        return batch.put(advantage=advantage * batch.own)

    return policy_gradient(
        Reference(n, length, marker, bridge, occurrence),
        credit,
        Surrogate(kind="none"),
        lambda batch: constant(batch, 1),
    )
