from __future__ import annotations

import torch

from autodidact.credits.prefix import node_means, prefixes
from autodidact.credits.value import Critic, HeadKind
from autodidact.law import Law
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.view import plain


@factory
def tvm(
    n: int = 16,
    length: int = 1024,
    head: HeadKind = "linear",
    role: str = "initial",
    value_lr: float = 1e-4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Method:
    """TVM: a value model, for search, that learns the chance of every prefix to end right.

    V(y_<=t) = mean { R_j : y_j begins with y_<=t } over the n completions of a problem;
    L = mean_t (f(x, y_<=t) - V(y_<=t))^2, for the network f alone: the policy stays as it is.
    `rollouts.beam` searches with what was learned.

    Source: Token-Supervised Value Models for Enhancing Mathematical Reasoning, arXiv 2407.12863;
    the loss and the beam are reconstructed. The paper trains a whole model with a head, here a
    head reads the frozen states; its n is 100.
    Needs: `answer`. Detached: labels and states.
    Shapes: one value per own token.
    Raises: ValueError for an unknown head, and before the run on problems without answers.
    Degenerates to: an outcome reward model at every token where no two completions share a prefix:
    the label is then the row's own reward.

    Args:
        n: completions of each problem, over which labels are means.
        head, role, value_lr: as in `ppo`; the network reads the state after each token.
    """
    critic = Critic(role, value_lr, head, "after", clip=None, scale=1.0)

    def credit(batch, models):
        batch = critic.read(batch, models)
        labels, _ = node_means(prefixes(batch), batch.take("reward"))
        return batch.put(returns=labels * batch.own)

    method = Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        lambda scores, batch: torch.zeros(batch.ids.shape, device=batch.ids.device),
        credit,
        views=lambda batch, models: {"policy": plain(batch, grad=False)},
        needs=("answer",),
        stale=True,
        signal=lambda scores, batch, values: batch.take("value"),
        signal_name="value of the prefix",
    )
    return critic.beside(method)
