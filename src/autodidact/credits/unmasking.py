"""Learned orders of unmasking: small networks that say which places of a canvas to open next.

Shapes: R canvases, L places or columns, D hidden size, K places opened at a step.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int

LOW = -1e30
"""The score of a place that cannot be opened: finite, as 0 * inf is not a number."""


class Opener(torch.nn.Module):
    """States of all places -> a score for each: one transformer block (DCoLT, 2505.10446).

    It reads the state of each place, whether it is hidden and may be opened, and by an adaptive
    norm how much of the canvas is hidden; places look at each other, and at no padding. Attention
    has one head.
    """

    def __init__(self, size: int):
        super().__init__()
        self.flags = torch.nn.Embedding(3, size)
        self.clock = torch.nn.Linear(1, 4 * size)
        self.norm = torch.nn.LayerNorm(size, elementwise_affine=False)
        self.attend = torch.nn.Linear(size, 3 * size)
        self.mix = torch.nn.Linear(size, size)
        self.inner = torch.nn.Linear(size, 2 * size)
        self.outer = torch.nn.Linear(2 * size, size)
        self.last = torch.nn.Linear(size, 1)

    def forward(
        self,
        states: Float[torch.Tensor, "R L D"],
        canvas: Bool[torch.Tensor, "R L"],
        hidden: Bool[torch.Tensor, "R L"],
        open: Bool[torch.Tensor, "R L"],
    ) -> Float[torch.Tensor, "R L"]:
        x = self.norm(states.to(self.last.weight.dtype)) + self.flags(hidden.long() + open.long())
        share = hidden.sum(1, keepdim=True) / canvas.sum(1, keepdim=True).clamp(min=1)
        parts = self.clock(share.to(x.dtype)[:, None]).chunk(4, -1)
        query, key, value = self.attend(self.norm(x) * (1 + parts[0]) + parts[1]).chunk(3, -1)
        # A row whose canvas is all padding still looks at something.
        seen = canvas[:, None] | ~canvas.any(1)[:, None, None]
        x = x + self.mix(
            torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        )
        y = self.inner(self.norm(x) * (1 + parts[2]) + parts[3])
        x = x + self.outer(torch.nn.functional.silu(y))
        return self.last(self.norm(x)).squeeze(-1)


class Threshold(torch.nn.Module):
    """How sure the model is of each place -> the log-odds with which it is opened (2512.09106).

    A linear map, a layer of `width` units and attention over the places that may be opened.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        self.inner = torch.nn.Linear(2, width)
        self.attend = torch.nn.Linear(width, 3 * width)
        self.last = torch.nn.Linear(width, 1)

    def forward(
        self,
        sure: Float[torch.Tensor, "R L"],
        canvas: Bool[torch.Tensor, "R L"],
        open: Bool[torch.Tensor, "R L"],
    ) -> Float[torch.Tensor, "R L"]:
        sure = sure.to(self.last.weight.dtype)
        share = (open.sum(1, keepdim=True) / canvas.sum(1, keepdim=True).clamp(min=1)).to(sure)
        x = self.inner(torch.stack([sure, share.expand_as(sure)], -1))
        query, key, value = self.attend(torch.nn.functional.silu(x)).chunk(3, -1)
        seen = open[:, None] | ~open.any(1)[:, None, None]
        x = x + torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.last(x).squeeze(-1)


def plackett_luce(
    scores: Float[torch.Tensor, "R L"],
    open: Bool[torch.Tensor, "R L"],
    rank: Int[torch.Tensor, "R L"],
) -> Float[torch.Tensor, "R"]:
    """log P of opening places in an order: sum_k [h_{o_k} - log sum_{j not yet taken} e^{h_j}].

    Args:
        open: the places there are. rank: 1 for the first that was taken, 2 for the next ..., 0
            for those that were not.
    """
    taken = open & (rank > 0)
    turn = torch.where(taken, rank, torch.where(open, open.shape[1] + 1, open.shape[1] + 2))
    order = turn.argsort(dim=1, stable=True)
    h = torch.where(open, scores, LOW).gather(1, order)
    left = h.flip(1).logcumsumexp(1).flip(1)
    return torch.where(taken.gather(1, order), h - left, 0.0).sum(1)


def opened_at_once(
    odds: Float[torch.Tensor, "R L"],
    open: Bool[torch.Tensor, "R L"],
    chosen: Bool[torch.Tensor, "R L"],
) -> Float[torch.Tensor, "R"]:
    """log P of a set of places, each opened by itself with sigmoid(odds), and at least one.

    Where none would be, the likeliest is: that one alone then has the chance of both cases,
    P(it alone) + P(none) = prod over the others of 1 - p.
    """
    signed = torch.where(chosen, odds, -odds)
    each = torch.where(open, torch.nn.functional.logsigmoid(signed), 0.0)
    best = torch.where(open, odds, LOW).argmax(1, keepdim=True)
    alone = (chosen & open).sum(1) == 1
    alone &= chosen.gather(1, best).squeeze(1)
    first = torch.zeros_like(open).scatter(1, best, True)
    return torch.where(first & alone[:, None], 0.0, each).sum(1)


def gumbel(numbers: Float[torch.Tensor, "*n"]) -> Float[torch.Tensor, "*n"]:
    """-log(-log u): scores plus these, from the highest on, are a draw by Plackett and Luce."""
    tiny = math.ldexp(1.0, -53)
    return -(-numbers.double().clamp(tiny, 1 - tiny).log()).log()
