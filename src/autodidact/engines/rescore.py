"""Tokens that another engine drew, read again by the policy itself.

Shapes: B completions, T their longest row, N their tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engine import Request
from autodidact.law import Law
from autodidact.model import LM
from autodidact.sweep import sizes

ROWS = 16
"""Completions that are read at a time."""

CAP = 5.0
"""Nats that one token counts at most: a word on the edge of a truncation may be cut off here."""


class Rescored(NamedTuple):
    """What the policy says about the tokens of one completion.

    Attributes:
        logp: log-probability under the law, -inf where it cuts the token off.
        raw: the same without truncation, at temperature 1 where that of the law is 0.
        support: the words that the law leaves at each token, if it truncates; else `None`.
    """

    logp: list[float]
    raw: list[float]
    support: list[list[int]] | None


def rescored(
    lm: LM, requests: Sequence[Request], drawn: Sequence[Sequence[int]], law: Law
) -> list[Rescored]:
    """What the policy says about drawn tokens, for each request those after `request.read`."""
    found: list[Rescored] = []
    for first in range(0, len(requests), ROWS):
        some = slice(first, first + ROWS)
        found += _rescored(lm, [r.read for r in requests[some]], drawn[some], law)
    return found


@torch.no_grad()
def _rescored(
    lm: LM, prompts: Sequence[Sequence[int]], drawn: Sequence[Sequence[int]], law: Law
) -> Iterator[Rescored]:
    lengths = [len(tokens) for tokens in drawn]
    words = torch.tensor([word for tokens in drawn for word in tokens], device=lm.device)
    logps, raws, supports = [], [], []
    hidden, head = _hidden(lm, prompts, drawn), lm.head()
    step = sizes(len(hidden), head)[0]
    for own, target in zip(hidden.split(step), words.split(step), strict=True):
        raw, kept = law.log_probs(head.logits(own))
        raws += raw.gather(1, target[:, None]).squeeze(1).tolist()
        logps += kept.gather(1, target[:, None]).squeeze(1).tolist()
        if law.truncates:
            supports += _words(kept > -torch.inf, target)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    for end, length in zip(ends, lengths, strict=True):
        own_tokens = slice(end - length, end)
        support = supports[own_tokens] if law.truncates else None
        yield Rescored(logps[own_tokens], raws[own_tokens], support)


def _hidden(
    lm: LM, prompts: Sequence[Sequence[int]], drawn: Sequence[Sequence[int]]
) -> Float[torch.Tensor, "N D"]:
    """The outputs that speak about the drawn tokens, in their order."""
    rows = [[*prompt, *tokens] for prompt, tokens in zip(prompts, drawn, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=lm.device)
    column = torch.arange(width, device=lm.device)
    end = torch.tensor([[len(row)] for row in rows], device=lm.device)
    begin = torch.tensor([[len(prompt)] for prompt in prompts], device=lm.device)
    output = lm.hidden(ids, column < end, use_cache=False).last_hidden_state
    return output[(column >= begin - 1) & (column < end - 1)]


def _words(kept: Bool[torch.Tensor, "N V"], target: Int[torch.Tensor, "N"]) -> list[list[int]]:
    """The kept words of each row. The drawn one is there also where rounding cut it off here."""
    kept = kept.scatter(1, target[:, None], True)
    words = iter(kept.nonzero()[:, 1].tolist())
    return [[next(words) for _ in range(count)] for count in kept.sum(1).tolist()]


def confirm(
    lm: LM,
    requests: Sequence[Request],
    drawn: Sequence[Sequence[int]],
    told: Sequence[Sequence[float]],
    law: Law,
    tolerance: float,
    who: str,
) -> None:
    """Refuse log-probabilities that are not those of the policy under the law.

        gap = mean over tokens of min(|told - expected|, CAP)

    Args:
        told: log-probabilities of the drawn tokens; at temperature 0 those of the model itself.
        tolerance: the largest gap that is rounding, in nats.
        who: whose they are, for the message.

    Raises:
        ValueError: the gap is larger. The message says whether they fit the model at temperature
            1 instead, so that the engine ignores the law, or other weights.
    """
    judged = rescored(lm, requests, drawn, law)
    gap = _gap(told, [each.raw if law.greedy else each.logp for each in judged])
    if gap <= tolerance:
        return
    if _gap(told, [each.raw for each in rescored(lm, requests, drawn, Law())]) <= tolerance:
        raise ValueError(
            f"{who} gives log-probabilities of the model at temperature 1, not of the law the "
            "tokens were drawn from: start it with --logprobs-mode processed_logprobs"
        )
    raise ValueError(
        f"{who} computes with another model than the policy, or other weights: log-probabilities "
        f"differ by {gap:.3g} nats in the mean, where at most {tolerance} is allowed"
    )


def _gap(told: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> float:
    pairs = [
        pair for one, two in zip(told, expected, strict=True) for pair in zip(one, two, strict=True)
    ]
    return sum(min(abs(one - two), CAP) for one, two in pairs) / len(pairs)
