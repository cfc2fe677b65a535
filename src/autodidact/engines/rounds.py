"""Rounds of speculative decoding: propose, judge, go back, over rows that come and go.

Shapes: B rows that are being written, G proposals of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int

from autodidact.engine import Request
from autodidact.engines.accept import Lenience, behaviour, judge
from autodidact.engines.copies import fast_head
from autodidact.engines.decoder import side_by_side
from autodidact.engines.rewind import Rewind, rewind
from autodidact.law import Law, draw, uniform
from autodidact.model import LM
from autodidact.store import Completion

TEST, INSTEAD = 2**40, 2**41
"""Added to the seed for the tests of proposals, and for the words in place of rejected ones."""


@dataclass
class Tally:
    """What became of proposals, one for each token that was drawn.

    Attributes:
        judged: tokens drawn, each of which is a proposal that stands or what replaced it.
        accepted: how many of them are proposals that stand.
        calls: how often the policy read proposals, counted for each row.
    """

    judged: int = 0
    accepted: int = 0
    calls: int = 0

    @property
    def acceptance(self) -> float:
        """The share of proposals that stand."""
        return self.accepted / max(1, self.judged)

    @property
    def efficiency(self) -> float:
        """Tokens drawn in one call of the policy; see `accept.block_efficiency`."""
        return self.judged / max(1, self.calls)


@dataclass
class Row:
    """One completion, as far as it is written."""

    request: Request
    key: int
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    support: list[list[int]] = field(default_factory=list)
    finished: bool = False

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return 0 if self.finished else self.request.length - len(self.ids)

    @property
    def over(self) -> bool:
        return self.left == 0

    @property
    def state(self) -> tuple[int, int, int, int, int]:
        """Its name, the place of its next token, the tokens left and the last one."""
        last = self.ids[-1] if self.ids else self.request.read[-1]
        place = len(self.request.begun) + len(self.ids)
        return self.key, self.request.sample, place, self.left, last

    def completion(self, law: Law) -> Completion:
        support = self.support if law.truncates else None
        return Completion(self.ids, self.logp, self.raw, self.finished, support)


class Desk:
    """The rows that are being written, and the two models that read them.

    Args:
        rows: all that will be written, at most `slots` at a time.
        block: G, the proposals of a round.

    Raises:
        ValueError: models with different vocabularies, or that cannot go back, see `rewind`.
    """

    def __init__(
        self,
        lm: LM,
        draft: LM,
        rows: Sequence[Row],
        slots: int,
        block: int,
        rule: Lenience,
        law: Law,
        seed: int,
    ):
        self.block, self.rule, self.law, self.seed = block, rule, law, seed
        longest = max(len(row.request.read) + row.request.length for row in rows) + block
        self.target, self.draft = (rewind(each, slots, longest) for each in (lm, draft))
        self.head, self.small = fast_head(lm), fast_head(draft)
        if self.head.words != self.small.words:
            raise ValueError(
                f"the draft {draft.name!r} knows {self.small.words} words, "
                f"{lm.name!r} {self.head.words}: they need the same vocabulary"
            )
        self.device, self.ends = lm.device, lm.ends
        self.rows: list[Row] = []
        self.tally = Tally()

    @property
    def decoders(self) -> tuple[Rewind, Rewind]:
        return self.target, self.draft

    @property
    def refills(self) -> bool:
        return self.target.refills and self.draft.refills

    @property
    def spent(self) -> tuple[int, int]:
        """Tokens that the draft proposed, and those of them that the policy read in vain."""
        proposed = self.tally.calls * self.block
        return proposed, proposed - self.tally.judged

    def admit(self, joining: Sequence[Row]) -> None:
        """Read the prompts of rows, but for their last token: a round begins with it."""
        copies, order = side_by_side([row.request.read for row in joining])
        old = len(self.rows)
        self.rows += [joining[number] for number in order]
        fresh = torch.arange(len(self.rows), device=self.device) >= old
        for decoder in self.decoders:
            decoder.admit(list(copies), list(copies.values()))
            decoder.forget(fresh.long())

    def retire(self) -> None:
        """Drop the rows that are over."""
        keep = [number for number, row in enumerate(self.rows) if not row.over]
        self.rows = [self.rows[number] for number in keep]
        for decoder in self.decoders:
            decoder.keep(torch.tensor(keep, dtype=torch.long, device=self.device))

    def round(self) -> None:
        """Propose tokens for each row, judge them, and go back to where the row is then."""
        state = torch.tensor([row.state for row in self.rows], device=self.device)
        keys, samples, place, left, last = state.T
        places = place[:, None] + torch.arange(self.block, device=self.device)
        first, test, instead = (
            uniform(self.seed + salt, keys[:, None], samples[:, None], places)
            for salt in (0, TEST, INSTEAD)
        )
        proposed, q = self._propose(last, first)
        read = torch.cat([last[:, None], proposed[:, :-1]], 1)
        logits = self.head.logits(self.target.read(read).flatten(0, 1))
        raw, p = (each.unflatten(0, read.shape) for each in self.law.log_probs(logits))
        verdict = judge(p, q, proposed, test, instead, self.rule)
        gained = self._until_the_end(verdict.tokens, verdict.gained.minimum(left))
        for decoder in self.decoders:
            decoder.forget(self.block - gained)
        self.tally.judged += int(gained.sum())
        self.tally.accepted += int(verdict.accepted.minimum(gained).sum())
        self.tally.calls += int((left > 0).sum())
        self._write(verdict.tokens, gained, behaviour(p, q, self.rule), raw)

    def _propose(
        self, last: Int[torch.Tensor, "B"], uniforms: Float[torch.Tensor, "B G"]
    ) -> tuple[Int[torch.Tensor, "B G"], Float[torch.Tensor, "B G V"]]:
        """Tokens that the draft draws one after the other, and the laws it draws them from."""
        tokens, laws = [last], []
        for number in uniforms.T:
            hidden = self.draft.read(tokens[-1][:, None])[:, 0]
            laws.append(self.law.log_probs(self.small.logits(hidden))[1])
            tokens.append(draw(laws[-1], number))
        return torch.stack(tokens[1:], 1), torch.stack(laws, 1)

    def _until_the_end(
        self, tokens: Int[torch.Tensor, "B G"], count: Int[torch.Tensor, "B"]
    ) -> Int[torch.Tensor, "B"]:
        """How many of so many tokens stand before the first end, itself included."""
        over = torch.isin(tokens, torch.tensor(sorted(self.ends), device=self.device)).long()
        return (over.cumsum(1) - over == 0).sum(1).minimum(count)

    def _write(
        self,
        tokens: Int[torch.Tensor, "B G"],
        gained: Int[torch.Tensor, "B"],
        law: Float[torch.Tensor, "B G V"],
        raw: Float[torch.Tensor, "B G V"],
    ) -> None:
        """Add to each row what it has gained."""
        new = torch.arange(self.block, device=self.device) < gained[:, None]
        words = tokens[new]
        logp, untouched = (each[new].gather(1, words[:, None])[:, 0] for each in (law, raw))
        kept = _kept(law[new]) if self.law.truncates else []
        at = 0
        for row, count in zip(self.rows, gained.tolist(), strict=True):
            piece = slice(at, at + count)
            row.ids += words[piece].tolist()
            row.logp += logp[piece].tolist()
            row.raw += untouched[piece].tolist()
            row.support += kept[piece]
            row.finished |= count > 0 and row.ids[-1] in self.ends
            at += count


def _kept(law: Float[torch.Tensor, "N V"]) -> list[list[int]]:
    """The words that each law leaves."""
    left = law > -torch.inf
    return [words.tolist() for words in left.nonzero()[:, 1].split(left.sum(1).tolist())]
