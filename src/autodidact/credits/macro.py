"""Macro actions: runs of tokens that are valued, and credited, as one action.

Shapes: B rows, T columns, K chunks.

Source: MA-RLHF, arXiv 2410.02743.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float

from autodidact.batch import Batch
from autodidact.credits.returns import gae
from autodidact.credits.selection import row_names
from autodidact.credits.spans import Spans, cut_at
from autodidact.law import uniform
from autodidact.names import choose
from autodidact.view import plain

if TYPE_CHECKING:
    from autodidact.models import Models

Chunking = Literal["ngram", "random", "perplexity"]
Sigma = Literal["equal", "unit", "position"]
Values = Float[torch.Tensor, "B T"]
Own = Bool[torch.Tensor, "B T"]

LENGTHS = (1, 2, 3, 5, 10)
"""What random chunks have, each as likely as the others."""


def macro_chunks(
    batch: Batch, models: Models | None, kind: Chunking = "ngram", size: int = 5
) -> Spans:
    """The chunks of each row. The last own token is a chunk of its own.

    Args:
        kind: "ngram", `size` tokens each; "random", of the lengths `LENGTHS`, drawn by a hash of
            the row's tokens; "perplexity", a new chunk where the perplexity of the row so far, to
            the initial weights, rises. Only that one reads a model.

    Raises:
        ValueError: an unknown kind.
    """
    choose("chunks", kind, get_args(Chunking))
    own = batch.own
    if kind == "ngram":
        begins = (own.long().cumsum(1) - 1) % size == 0
    elif kind == "random":
        begins = _random(batch)
    else:
        assert models is not None
        begins = rising(models.score(plain(batch, "initial"), batch).logp, own)
    last = own.long().cumsum(1) == own.sum(1, keepdim=True)
    return cut_at(own, begins | last)


def rising(logp: Values, own: Own) -> Own:
    """Where exp(-mean_{s <= t} log p(y_s)) is above what it was before the token."""
    count = own.long().cumsum(1).clamp(min=1)
    surprise = -(logp * own).cumsum(1) / count
    before = (surprise * count + logp * own) / (count - 1).clamp(min=1)
    # Rounding is no rise: equal tokens leave the perplexity where it is.
    return own & (count > 1) & (surprise > before + 1e-9 * before.abs())


def _random(batch: Batch) -> Own:
    """First tokens of chunks of random lengths, which are data: they depend on the row alone."""
    keys = row_names(batch)
    most = batch.ids.shape[1]
    number = torch.arange(most, device=keys.device).expand(len(batch), most)
    drawn = uniform(0, keys[:, None], number, 0)
    sizes = torch.tensor(LENGTHS, device=keys.device)[(drawn * len(LENGTHS)).long()]
    starts = sizes.cumsum(1) - sizes
    place = batch.own.long().cumsum(1) - 1
    chunk, before = (torch.searchsorted(starts, place - k, right=True) for k in (0, 1))
    return batch.own & (chunk > before)


def sigma_weights(spans: Spans, kind: Sigma = "equal") -> Values:
    """sigma_t, which sum to 1 over each chunk.

    Args:
        kind: "equal", 1 / |chunk|; "unit", all on its last token; "position", 1 / (1 + k) at its
            k-th token, normalised.

    Raises:
        ValueError: an unknown kind.
    """
    choose("sigma", kind, get_args(Sigma))
    if kind == "unit":
        return spans.last.double()
    inside = spans.inside.double()
    raw = inside if kind == "equal" else inside / (1 + spans.places())
    return raw / torch.where(spans.inside, spans.at(spans.sums(raw)), 1.0)


def chunk_gae(
    spans: Spans, sigma: Values, rewards: Values, values: Values, gamma: float, lam: float
) -> tuple[Values, Values]:
    """Advantages and returns of chunks, each at all of its tokens.

    V_k = sum_{t in k} sigma_t V_t and R_k alike; then `gae` from each chunk to the next. Rewards
    are averaged, not summed, inside a chunk, as in the release.
    """
    sigma = sigma.to(values.dtype)
    reward, value = (spans.sums(sigma * each.to(values.dtype)) for each in (rewards, values))
    advantage, returns = gae(reward, value, spans.sizes() > 0, gamma, lam)
    return spans.at(advantage), spans.at(returns)
