from __future__ import annotations

import torch

from autodidact.credits.value import HeadKind, TokenReward, belief
from autodidact.law import Law
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.method import Method, factory, token_mean
from autodidact.parallel import total
from autodidact.rollouts.contrast import Contrast


@factory
def oreal(
    n: int = 16,
    length: int = 1024,
    kl: float = 0.01,
    kl_kind: KL = "k3",
    negative: float = 0.5,
    frozen: int = 10,
    weighted: bool = True,
    head: HeadKind = "linear",
    role: str = "initial",
    value_lr: float = 1e-4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Method:
    """OREAL: clone right answers and push wrong ones away, at the tokens a reward model points to.

    A = R - mean of the other n - 1;  c_t = sigmoid(mean_{k<=t} s_k), s the token reward model;
    w+_t = clip(2 c_t - 1, 0, 1),  w-_t = clip(1 - 2 c_t, 0, 1);
    L = -sum_right A w+_t log p(y_t) / N_right - negative sum_wrong A w-_t log p(y_t) / N_wrong
    + kl k3, mean over tokens; the model of s learns BCE(sigmoid(mean_t s_t), R).
    N counts the tokens of all right, or wrong, rows of the step: one of each for every problem.

    Source: Exploring the Limit of Outcome Reward for Learning Mathematical Reasoning,
    arXiv 2502.06781. There s is a copy of the policy, here a head on frozen states; negatives have
    exp(log p - sg log p) for log p, with the same gradient. Its choice of problems by pass rate
    is left out. Its top_p is 0.9.
    Needs: `answer`. Detached: A, w and the reference.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, and before the run on problems without answers.
    Degenerates to: REINFORCE with a leave-one-out baseline for weighted=False, kl=0, negative=1
    and as many right as wrong tokens; nothing is learned from groups of equal rewards, and while
    s says nothing (c = 1/2): that is what `frozen` is for.

    Args:
        negative: weight of the wrong answers.
        frozen: the first so many steps teach the reward model alone.
        weighted: false takes w = 1.
        head, role, value_lr: of the reward model, as in `ppo`; it reads the state after a token.
    """
    judge = TokenReward(role, value_lr, head)

    def credit(batch, models):
        learning = models.trained(judge.auxiliary).updates >= frozen
        batch = judge.read(batch, models)
        sure = 2 * belief(batch.take("token_reward"), batch.own) - 1
        apart = batch.take("apart")[:, None]
        advantage = torch.zeros_like(sure)
        for sign, share in ((1, 1.0), (-1, negative)):
            side = batch.own & (sign * apart > 0)
            weight = (sign * sure).clamp(0, 1) if weighted else torch.ones_like(sure)
            # What is summed here is divided by all own tokens when it is weighed.
            scale = total(batch.own.sum()) / total(side.sum()).clamp(min=1)
            advantage = torch.where(side, share * scale * apart * weight, advantage)
        return batch.put(
            advantage=advantage, learning=apart[:, 0].new_full((len(batch),), learning)
        )

    def weigh(batch):
        return token_mean(batch) * batch.take("learning")[:, None]

    method = policy_gradient(
        Contrast(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate("none", kl=kl, kl_kind=kl_kind),
        weigh,
    )
    return judge.beside(method)
