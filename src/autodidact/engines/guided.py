"""Guided denoising: a small causal model says how much of what a masked model drafts may stand.

Shapes: B rows of a canvas, L places, N places that are hidden, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int

from autodidact.engine import Drawn, Request
from autodidact.engines.cached import Cached, Run
from autodidact.engines.canvas import Canvas
from autodidact.engines.columns import Kept
from autodidact.law import Law, sureness
from autodidact.model import LM
from autodidact.models import Models

GREEDY = Law(temperature=0)


@dataclass
class Guided:
    """At a step the masked model drafts all hidden places, and a supervisor judges the draft.

    The causal model reads the draft once. The longest run of words that it accepts stands, from
    the first hidden place on, and the first of them in any case: a step writes at least one. It
    never writes a word itself. What a draft holds after an end token that stands is kept as it is,
    as it is no part of the text. Calls <= tokens; a supervisor that accepts all gives
    `Denoise(steps=1)`, one that accepts nothing `Denoise(order="left")`, bit for bit.

    The law of what is written is that of neither model: `logp` is what the masked model gave.

    Source: FlashDLM (guided diffusion), arXiv 2505.21467.

    Attributes:
        supervisor: a causal model with the same words, or its name or folder, from which it is
            then loaded at the first draw.
        accept: a word is accepted if this law of the supervisor can draw it: its likeliest by
            default, `Law(top_k=k)` one of k, `Law(min_p=r)` one at least r times as likely as the
            likeliest, `Law()` all.
        above: and if the supervisor gives it more than this probability.
        block: places that are drafted together; by default all of them.
        cache, refresh, window: of the masked model, see `Cached`.

    Raises:
        ValueError: as `Cached`, or a probability outside 0 to 1; and when drawing, as `Denoise`,
            or a supervisor that is not causal or has another vocabulary.
    """

    supervisor: LM | str
    accept: Law = GREEDY
    above: float = 0.0
    block: int | None = None
    cache: Kept = "none"
    refresh: int | None = None
    window: int = 0

    def __post_init__(self):
        if not 0 <= self.above <= 1:
            raise ValueError(f"above={self.above} must be from 0 to 1")
        Cached(block=self.block, cache=self.cache, refresh=self.refresh, window=self.window)

    @property
    def name(self) -> str:
        named = self.supervisor if isinstance(self.supervisor, str) else self.supervisor.name
        kept = f"{self.block}, {self.cache}, {self.refresh}, {self.window}"
        return f"guided ({named}, {self.accept}, {self.above}, {kept})"

    @torch.no_grad()
    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request; `verified` is what the supervisor read."""
        if isinstance(self.supervisor, str):
            self.supervisor = Models(lm)[self.supervisor]
        ends = torch.tensor(sorted(lm.ends))
        judge = Judge(self.supervisor, self.accept, self.above, ends)
        judge.check(lm)
        inner = _Supervised(
            block=self.block, threshold=1.0, cache=self.cache, refresh=self.refresh,
            window=self.window, judge=judge,
        )  # fmt: skip
        return inner.draw(lm, requests, law, seed)._replace(verified=judge.read)


@dataclass
class Judge:
    """A supervisor and its rule.

    Attributes:
        read: tokens that it has read.
    """

    lm: LM
    accept: Law
    above: float
    ends: torch.Tensor
    read: int = field(init=False, default=0)

    def check(self, lm: LM) -> None:
        """`ValueError` for one that cannot judge this model's drafts."""
        if not self.lm.causal:
            raise ValueError(
                f"the supervisor {self.lm.name!r} is a masked model: give a causal one"
            )
        own, other = self.lm.head().words, lm.head().words
        if own != other:
            raise ValueError(
                f"the supervisor {self.lm.name!r} knows {own} words, {lm.name!r} {other}: they "
                "need the same vocabulary"
            )

    def stands(
        self, canvas: Canvas, hidden: Bool[torch.Tensor, "B L"], words: Int[torch.Tensor, "B L"]
    ) -> Bool[torch.Tensor, "B L"]:
        """At which of the hidden places the drafted words stand."""
        row, place = hidden.nonzero(as_tuple=True)
        columns = canvas.start[:, None] + torch.arange(hidden.shape[1], device=row.device)
        draft = canvas.ids.clone()
        draft[row, columns[row, place]] = words[row, place]
        fell = torch.zeros_like(hidden)
        fell[row, place] = ~self.accepted(draft, canvas, row, columns[row, place])
        first = hidden & (hidden.cumsum(1) == 1)
        kept = hidden & ((fell.cumsum(1) == 0) | first)
        # Words that stood before this step count as well: one of them may end the text.
        ends = torch.isin(draft.gather(1, columns), self.ends.to(draft.device))
        over = (ends & (kept | ~canvas.hidden)).cumsum(1) > 0
        return kept | (hidden & over)

    def accepted(self, draft, canvas, row, column) -> Bool[torch.Tensor, "N"]:
        """Which words the supervisor accepts, each after those before it in the draft.

        The first token of a row without a prompt follows nothing: there is nothing against it.
        """
        rows = row.unique()
        real = canvas.real[rows]
        self.read += int(real.sum())
        states = self.lm.hidden(draft[rows], real, use_cache=False).last_hidden_state
        before = states[torch.searchsorted(rows, row), (column - 1).clamp(min=0)]
        logits, words = self.lm.head().logits(before), draft[row, column]
        law = self.accept.log_probs(logits)[1]
        fine = law.gather(-1, words[:, None]).squeeze(-1) > -torch.inf
        if self.above:
            fine &= sureness(logits, words, "confidence") > self.above
        return fine | (column == 0)


@dataclass(frozen=True, kw_only=True)
class _Supervised(Cached):
    """Writes as long as something is hidden, like a threshold, and keeps what a judge does."""

    judge: Judge

    def run(self, lm: LM, canvas: Canvas) -> _Judged:
        draft = torch.zeros_like(canvas.step)
        return _Judged(**vars(super().run(lm, canvas)), judge=self.judge, draft=draft)


@dataclass(frozen=True, kw_only=True)
class _Judged(Run):
    """A run that notes what is drafted, and asks a judge."""

    judge: Judge
    draft: torch.Tensor

    def _propose(self, canvas, lm, law, seed, row, place, logits) -> Int[torch.Tensor, "N"]:
        words = super()._propose(canvas, lm, law, seed, row, place, logits)
        self.draft[row, place] = words
        return words

    def _kept(self, sure, hidden, left) -> Bool[torch.Tensor, "B L"]:
        return self.judge.stands(self.memory.canvas, hidden, self.draft)
