from __future__ import annotations

from autodidact.losses.policy import nll
from autodidact.method import Method, factory
from autodidact.rollouts.given import Given


@factory
def sft() -> Method:
    """Supervised fine-tuning on the solutions of the data.

    L = -(1/N) sum_t log p(y_t | x, y_<t) over the N solution tokens of the whole step, the end
    token included. The gradient in the logits is p - onehot(y_t) over N.

    Source: textbook maximum likelihood; token mean over the global batch.
    Needs: `solution`. Nothing is sampled, nothing is detached, no teacher reads along.
    Shapes: one value per own token, in nats.
    Raises: ValueError before the run on problems without a solution.
    Degenerates to: `rft` when the solutions are the policy's own verified samples.
    """
    return Method(Given(), nll, needs=("solution",), signal_name="negative log-likelihood (nats)")
