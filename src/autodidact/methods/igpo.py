from __future__ import annotations

from autodidact.credits.group import group_advantage
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.hinted import Hinted
from autodidact.losses.policy import KL, Surrogate, policy_gradient
from autodidact.losses.weights import sequence_mean
from autodidact.method import Method, factory
from autodidact.rollouts.inpaint import Hints, Inpaint


@factory
def igpo(
    n: int = 8,
    length: int = 256,
    steps: int | None = 128,
    block: int | None = 32,
    order: Order = "confidence",
    hint_low: float = 0.2,
    hint_high: float = 0.6,
    piece_low: int = 5,
    piece_high: int = 10,
    replaced: float = 0.5,
    learned: float = 0.2,
    clip: float = 0.2,
    kl: float = 0.01,
    kl_kind: KL = "k3",
    epochs: int = 4,
    temperature: float = 1.2,
) -> Method:
    """IGPO: where a whole group fails, pieces of the solution stand in the canvas from the start.

    If none of the n completions is right they are drawn anew, each with a share of the solution's
    pieces, eta ~ U[hint_low, hint_high]; of those that are right K = min(so many, replaced n) take
    the places of the first K. A_i = R_i - mean R of the group;
    L = -(1/B) sum_i min(s_i A_i, clip(s_i, 1-clip, 1+clip) A_i) + kl * k3,
    s_i = exp((1/T_i) sum_t lp_t - lp_old_t), lp_t = log p(y_t | x, all of y hidden).

    Source: Inpainting-Guided Policy Optimization for Diffusion Large Language Models,
    arXiv 2509.10396. The release asks whether a batch, not a group, has failed. Pieces end before
    the answer, but in a canvas that is the answer itself (a grid) any cell may be shown.
    Needs: `answer`, `solution`. Detached: advantages, lp_old, the reference, most hint tokens. What
    the policy did not draw is not corrected for by the ratio.
    Shapes: one value per own token, those of hints included.
    Raises: ValueError for n < 2, bad shares, and before the run on a causal model.
    Degenerates to: GSPO on the one-step likelihood where groups have a right completion, or
    without hints.

    Args:
        steps, block, order: how rollouts are written, see `engines.denoise`.
        hint_low, hint_high: the share of pieces that is shown, rounded down.
        piece_low, piece_high: tokens of a piece; 1 and 1 to show single cells of a grid.
        replaced: at most this share of a group.
        learned: of all hint tokens those of highest entropy that have a gradient.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    hints = Hints(hint_low, hint_high, piece_low, piece_high)
    return policy_gradient(
        Inpaint(n, length, Law(temperature), hints, replaced, Denoise(steps, block, order)),
        lambda batch, models: group_advantage(batch, "none"),
        Surrogate(
            level="sequence", low=clip, kl=kl, kl_kind=kl_kind,
            reading=Hinted("one_step", learned=learned),
        ),
        sequence_mean,
        epochs=epochs,
        needs=("answer", "solution"),
    )  # fmt: skip
