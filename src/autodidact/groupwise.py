"""What the laws of a group's tokens say about one another: how a step on some would move the
others, and how far apart they are at the same place.

Shapes: B rows, T columns, N asked tokens, n of one chunk, G rows of one group, P places, D hidden
size, V vocabulary, W words that count. Everything is detached, and no [N, V] is ever alive.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int

from autodidact.head import Head, bend
from autodidact.names import choose
from autodidact.scores import Scores
from autodidact.sweep import sizes

Words = Literal["all", "seen"]
Apart = Literal["divergence", "released"]

NOTHING = 1e-6
"""A disagreement up to this is rounding: rows that read the same agree."""
FAR = 11.0
"""Where the released disagreement cuts differences of log-probabilities."""


@torch.no_grad()
def influence(
    scores: Scores,
    step: Float[torch.Tensor, "B T"],
    group: Int[torch.Tensor, "B"],
    words: Words = "all",
) -> Float[torch.Tensor, "B T"]:
    """<d log p(y_t) / dW, sum_s step_s d log p(y_s) / dW>, s over the asked tokens of t's group.

    W is the weight of the output head: to first order, how much a small step of the head alone
    along sum_s step_s log p(y_s) raises the log-probability of each token. With h the hidden
    state, a the slope of the head's scale and soft cap over the temperature, g = a (onehot - p)
    and M = sum_s step_s g_s h_s^T it is g_t^T M h_t, the sum of step_s <g_t, g_s> <h_t, h_s>.
    A bias of the head counts in p only. 0 in groups whose steps are all 0. One M, [W, D], is alive
    at a time.

    Source: Token Hidden Reward, arXiv 2510.03669, where p is not that of a capped head.

    Args:
        words: "seen" keeps those entries of g whose words stand in the group, without making p
            sum to one over them: less memory, and no longer exact.

    Raises:
        ValueError: unknown `words`.
    """
    choose("words", words, get_args(Words))
    asked = scores.asked
    number, steps = group[:, None].expand_as(asked)[asked], step[asked].to(scores.head.dtype)
    found = torch.zeros_like(steps)
    for each in number[steps != 0].unique():
        tokens = (number == each).nonzero().squeeze(1)
        kept = scores.targets[tokens].unique() if words == "seen" else slice(None)
        found[tokens] = _moved(scores, tokens, steps, kept)
    return _dense(scores, found)


def _moved(
    scores: Scores,
    tokens: Int[torch.Tensor, "N"],
    steps: Float[torch.Tensor, "M"],
    words: Int[torch.Tensor, "W"] | slice,
) -> Float[torch.Tensor, "N"]:
    """g_t^T M h_t of the tokens of one group."""
    head = scores.head
    size = sizes(len(tokens), head)[0]
    step = torch.zeros_like(head.weight[words], dtype=head.dtype)
    for some in tokens[steps[tokens] != 0].split(size):
        head.push(steps[some, None] * _errors(scores, some, words), scores.hidden[some], step)
    moved = Head(step)
    found = [
        (moved.pull(_errors(scores, some, words)) * scores.hidden[some]).sum(1)
        for some in tokens.split(size)
    ]
    return torch.cat(found)


def _errors(
    scores: Scores, tokens: Int[torch.Tensor, "n"], words: Int[torch.Tensor, "W"] | slice
) -> Float[torch.Tensor, "n W"]:
    """d log p(y) / d (W h) at some words: the slope of the head times (onehot - p)."""
    logp, slope = _laws(scores, tokens)
    target = scores.targets[tokens, None]
    error = (-logp.exp()).scatter_add(1, target, torch.ones_like(logp[:, :1]))
    return (error * slope)[:, words]


@torch.no_grad()
def disagreement(
    scores: Scores, group: Int[torch.Tensor, "B"], kind: Apart = "divergence"
) -> Float[torch.Tensor, "B T"]:
    """How far apart the next-token laws of a group are at a place, at each asked token of it.

    The k-th asked tokens of the rows of a group share a place. With m the mean of their laws p_i

    divergence   H(m) - mean_i H(p_i), the generalised Jensen-Shannon divergence of the rows that
                 have a token there: 0 to log G, and 0 for a single row
    released     mean_i sum_v (exp(d) - d - 1), d = mean_j log p_j - log p_i cut at +-11, where rows
                 that have ended count as uniform: rare words weigh as much as likely ones

    Up to 1e-6 it counts as 0. The order of the rows does not matter.

    Source: TW-GRPO, arXiv 2505.24718; "released" is what its repository computes.

    Raises:
        ValueError: an unknown kind.
    """
    choose("disagreement", kind, get_args(Apart))
    asked = scores.asked
    number, place = group[:, None].expand_as(asked)[asked], (asked.cumsum(1) - 1)[asked]
    row = asked.nonzero()[:, 0]
    found = torch.zeros(len(number), dtype=scores.head.dtype, device=asked.device)
    for each in number.unique():
        tokens = (number == each).nonzero().squeeze(1)
        rows = row[tokens].unique(return_inverse=True)[1]
        at = torch.full(
            (int(rows.max()) + 1, int(place[tokens].max()) + 1), -1, device=asked.device
        )
        at[rows, place[tokens]] = tokens
        step = max(1, sizes(len(tokens), scores.head)[0] // len(at))
        values = torch.cat([_apart(scores, some, kind) for some in at.split(step, 1)])
        found[tokens] = values[place[tokens]]
    return _dense(scores, torch.where(found > NOTHING, found, 0.0))


def _apart(scores: Scores, at: Int[torch.Tensor, "G P"], kind: Apart) -> Float[torch.Tensor, "P"]:
    """The disagreement at some places, given the number of each row's token there, or -1."""
    there = (at >= 0)[:, :, None]
    logp = _laws(scores, at.clamp(min=0).flatten())[0].unflatten(0, at.shape)
    if kind == "released":
        logp = torch.where(there, logp, -math.log(logp.shape[-1]))
        gap = (logp.mean(0) - logp).clamp(-FAR, FAR)
        return (gap.expm1() - gap).sum(-1).mean(0)
    p = there * logp.exp() / there.sum(0)
    mean = p.sum(0)
    return torch.where(p > 0, p * (logp - mean.log()), 0.0).sum((0, 2))


def _laws(
    scores: Scores, tokens: Int[torch.Tensor, "n"]
) -> tuple[Float[torch.Tensor, "n V"], Float[torch.Tensor, "n V"] | float]:
    """The laws of some tokens, and the derivative of their logits in hidden W^T."""
    head, hidden = scores.head, scores.hidden[tokens]
    room = torch.empty(len(hidden), head.words, dtype=head.dtype, device=hidden.device)
    logits, slope = bend(head.project(hidden, room), head.scale, head.softcap, scores.temperature)
    return logits.log_softmax(-1), slope


def _dense(scores: Scores, values: Float[torch.Tensor, "N"]) -> Float[torch.Tensor, "B T"]:
    return values.new_zeros(scores.asked.shape).masked_scatter(scores.asked, values)
