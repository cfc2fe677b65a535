from __future__ import annotations

from fractions import Fraction

import torch

from autodidact.credits.group import Scale, group_advantage
from autodidact.credits.quantile import highest
from autodidact.credits.selection import most_varied, row_names
from autodidact.law import Law
from autodidact.losses.policy import Level, Surrogate, policy_gradient
from autodidact.method import Method, factory
from autodidact.parallel import total
from autodidact.rollouts.sample import Sample
from autodidact.view import plain


@factory
def d3s(
    n: int = 8,
    length: int = 1024,
    rows: float = 0.25,
    rows_last: float = 0.75,
    tokens: float = 0.1,
    tokens_last: float = 0.5,
    over: int = 100,
    clip: float = 0.2,
    clip_high: float | None = None,
    level: Level = "token",
    scale: Scale = "std",
    epochs: int = 1,
    temperature: float = 1.0,
) -> Method:
    """D3S: draw many, learn from the rows whose advantages differ most and their open tokens.

    S = argmax_{|S| = rows B} Var(A_S) over the whole batch, A as in `grpo`;
    K = the share `tokens` of the tokens of S with the highest |A_i| H_it, H the entropy of p;
    L = -(1/|K|) sum_{it in K} min(rho A, clip(rho, 1-clip, 1+clip_high) A), rho = p / mu.
    Both shares grow linearly to their last values over the first `over` updates.

    Source: Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework,
    arXiv 2509.22115; its shares are not public, those here are a proposal.
    Needs: `answer`. Detached: both selections, advantages and old log-probabilities. The choice
    biases the gradient; rows left out cost no backward pass, those kept are read once more.
    Shapes: one value per own token of the rows that are kept, 0 outside of K.
    Raises: ValueError for n < 2, a share outside 0..1, over < 1; before the run without answers.
    Degenerates to: `grpo` with normalise="token" where all shares are 1.

    Args:
        rows, rows_last: share of the rows that is kept, at first and at last, rounded up.
        tokens, tokens_last: share of the tokens of these rows, likewise, with ties of the last.
        over: updates until then.
        clip, clip_high, scale: as in `grpo`.
        level: of the ratio, see `losses.policy.Surrogate`; "sequence" is GSPO and wants clip=3e-4.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    shares = {"rows": rows, "rows_last": rows_last, "tokens": tokens, "tokens_last": tokens_last}
    for name, value in shares.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value} must be above 0 and at most 1")
    if over < 1:
        raise ValueError(f"over={over} updates: it must be at least 1")

    def share(first, last, updates):
        done = Fraction(min(updates, over), over)
        return Fraction(str(first)) * (1 - done) + Fraction(str(last)) * done

    def credit(batch, models):
        updates = models.ledger.optimizer_steps
        batch = group_advantage(batch, scale)
        first = batch.own.int().argmax(1, keepdim=True)
        each = batch.take("advantage").gather(1, first).squeeze(1)
        kept = most_varied(each, row_names(batch), share(rows, rows_last, updates))
        batch = batch.select(kept.nonzero().squeeze(1).tolist())
        entropy = models.score(plain(batch, grad=False), batch).entropy
        open_ = batch.take("advantage").abs() * entropy
        chosen = highest(open_, batch.own, share(tokens, tokens_last, updates))
        return batch.put(chosen=chosen, advantage=torch.where(chosen, batch.take("advantage"), 0.0))

    def weigh(batch):
        chosen = batch.take("chosen")
        return chosen / total(chosen.sum()).clamp(min=1)

    return policy_gradient(
        Sample(n, length, Law(temperature)),
        credit,
        Surrogate(level=level, low=clip, high=clip_high),
        weigh,
        epochs=epochs,
    )
