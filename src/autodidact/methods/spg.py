from __future__ import annotations

from autodidact.credits.group import group_advantage
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.sandwich import Sandwich
from autodidact.method import Method, factory, token_mean
from autodidact.rollouts.sample import Sample


@factory
def spg(
    n: int = 6,
    length: int = 256,
    steps: int | None = 128,
    block: int = 32,
    order: Order = "confidence",
    draws: int = 2,
    beta: float = 1.5,
    omega: float = 0.5,
    prompt: float = 0.15,
    epochs: int = 4,
    temperature: float = 0.9,
) -> Method:
    """Sandwiched Policy Gradient: another surrogate of log p for bad answers than for good ones.

    L = -(1/sum_i T_i) sum_i A_i q_i, A_i = R_i - mean R of the group, over draws z of a canvas,
    q = sum_t E_z[w log p_z(y_t)] for A >= 0, a lower bound of log p, and for A < 0
    q = omega sum_t (1/beta) log E_z[w p_z(y_t)^beta] + (1 - omega) sum_t E_z[w log p_z(y_t)].

    Source: SPG: Sandwiched Policy Gradient for Masked Diffusion Language Models, arXiv 2510.09541.
    There is no ratio, no clip and no KL. The paper's upper bound has a constant that is left out
    as it has no gradient; without it the surrogate is none, see `losses.sandwich`, which also says
    what a draw hides. In the release every update draws new canvases; here they share them.
    Needs: `answer`. Detached: advantages.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, beta not above 0 or omega outside 0 to 1, and before the run on a
    causal model or problems without answers.
    Degenerates to: the lower bound for both signs at omega=0, and as beta goes to 0.

    Args:
        steps, order: how rollouts are written, see `engines.denoise`.
        block: tokens of a block, of rollouts and of canvases.
        draws: canvases of an answer. The logarithm of a mean of few is too low on average.
        beta: 1 for Sudoku in the paper.
        prompt: the chance that a token before the block is hidden.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    return policy_gradient(
        Sample(n, length, Law(temperature), engine=Denoise(steps, block, order)),
        lambda batch, models: group_advantage(batch, "none"),
        Surrogate(
            "none",
            reading=Sandwich(draws=draws, block=block, prompt=prompt, beta=beta, omega=omega),
        ),
        token_mean,
        epochs=epochs,
    )
