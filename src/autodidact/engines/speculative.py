"""The speculative engine: a draft model proposes tokens, and the policy judges several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from autodidact.engine import Drawn, Request, fits
from autodidact.engines.accept import Form, Lenience
from autodidact.engines.rounds import Desk, Row, Tally
from autodidact.law import Law, prompt_key
from autodidact.model import LM
from autodidact.models import Models

RETIRE = 0.75
"""Finished rows are dropped when at most this share of the rows is still alive."""


def check(guess: int, lenience: float, form: Form) -> Lenience:
    """The rule of these options; `ValueError` for such as are not allowed."""
    if guess < 1:
        raise ValueError(f"guess={guess} is not allowed: it must be at least 1")
    return Lenience(lenience, form)


@dataclass
class Speculative:
    """Draws from the policy, of which a smaller model proposes most tokens.

    In a round the draft reads the last token and `guess` proposals of its own, the policy the same
    tokens at once, and `accept.judge` keeps those until the first that fails. Papers draw the token
    after the last proposal from the policy alone. Here it is proposed and judged like all others,
    which leaves its law as it is: every token depends on the tokens before it and on the uniform
    numbers of its place only, not on `guess`, nor on where rounds begin, nor on other rows.

    Without lenience (1) the law of completions is exactly that of the policy, and `logp` is it.
    With lenience it is neither that of the policy nor that of the draft; `logp` is what was
    really sampled from, see `accept.behaviour`, and `raw` is the policy's. At temperature 0 the
    tokens are those of the policy alone, whatever the draft and the lenience.

    Source: arXiv 2211.17192 and 2302.01318; lenience: DistillSpec, arXiv 2310.08461.

    Attributes:
        draft: a causal model with the vocabulary of the policy, or its name or folder, from
            which it is then loaded at the first draw. It proposes by the same law.
        guess: proposals that the policy reads at a time.
        lenience, form: e and f of `accept.Lenience`.
        slots: at most this many rows are written at a time.
        tally: of the last draw.

    Raises:
        ValueError: no proposals, or a lenience that is none.
    """

    draft: LM | str
    guess: int = 4
    lenience: float = 1.0
    form: Form = "linear"
    slots: int = 256
    tally: Tally = field(init=False, default_factory=Tally, compare=False)

    def __post_init__(self):
        self.rule = check(self.guess, self.lenience, self.form)

    @property
    def name(self) -> str:
        lenience = "" if self.rule.lossless else f", {self.form} lenience {self.lenience}"
        draft = self.draft if isinstance(self.draft, str) else self.draft.name
        return f"speculative ({draft}{lenience})"

    @torch.no_grad()
    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request.

        Raises:
            ValueError: a request that does not fit the context of both models, a draft that
                cannot be loaded or has another vocabulary, or a model that cannot go back, see
                `rewind`.
        """
        if isinstance(self.draft, str):
            self.draft = Models(lm)[self.draft]
        for reader in (lm, self.draft):
            fits(reader, requests)
        rows = [Row(request, prompt_key(request.prompt)) for request in requests]
        slots = min(self.slots, len(rows))
        desk = Desk(lm, self.draft, rows, slots, self.guess + 1, self.rule, law, seed)
        self.tally, taken = desk.tally, 0
        while taken < len(rows) or desk.rows:
            if taken < len(rows) and (desk.refills or not desk.rows):
                joining = rows[taken : taken + slots - len(desk.rows)]
                desk.admit(joining)
                taken += len(joining)
            while sum(not row.over for row in desk.rows) > RETIRE * len(desk.rows):
                desk.round()
            desk.retire()
        return Drawn([row.completion(law) for row in rows], desk.target.prefilled, *desk.spent)
