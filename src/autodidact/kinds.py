"""Kinds of tokens, by their text: where in a completion does a teacher object?

style      words of thinking aloud: wait, so, let, maybe, therefore
digits     a number, or a piece of one
operators  signs of calculation, brackets, and the commands of LaTeX that stand for them
ends       special tokens, and whatever ends a completion
other      the rest

Words of style carry most of the divergence to a teacher that has read the solution (2601.18734).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int

if TYPE_CHECKING:
    from autodidact.model import LM

KINDS = ("style", "digits", "operators", "ends", "other")
THOUGHT = """
actually again alright also alternatively anyway because but check consider finally first hence hmm
hold however indeed instead just let lets maybe me next now oh okay ok perhaps probably really
recall right see seems simply since so suppose sure then therefore think thus try verify wait we
well yes
"""
LATEX = "frac dfrac tfrac sqrt cdot times div pm mp leq geq neq approx pmod"
STYLE, COMMANDS = frozenset(THOUGHT.split()), frozenset(LATEX.split())
SIGNS = frozenset("+-*/^%=<>()[]{}\\_·×÷")

_KNOWN: WeakKeyDictionary[Any, dict[tuple[int, bool], int]] = WeakKeyDictionary()
"""The kinds of the tokens that were met so far, for each tokenizer."""


@dataclass(frozen=True)
class Kinds:
    """The kind of each token of a tokenizer, an index into `KINDS`.

    Attributes:
        ends: tokens that end a completion, beside the special ones.
    """

    tokenizer: Any
    ends: frozenset[int] = frozenset()
    names: tuple[str, ...] = field(default=KINDS, init=False)

    @classmethod
    def of(cls, lm: LM) -> Kinds:
        return cls(lm.tokenizer, lm.ends)

    def __call__(self, ids: Int[torch.Tensor, "*n"]) -> Int[torch.Tensor, "*n"]:
        seen, where = ids.unique(return_inverse=True)
        found = [self._kind(each) for each in seen.tolist()]
        return torch.tensor(found, dtype=torch.long, device=ids.device)[where]

    def _kind(self, token: int) -> int:
        known, key = _KNOWN.setdefault(self.tokenizer, {}), (token, token in self.ends)
        if key not in known:
            special = key[1] or token in self.tokenizer.all_special_ids
            name = "ends" if special else kind_of(self.tokenizer.decode([token]))
            known[key] = KINDS.index(name)
        return known[key]


def kind_of(text: str) -> str:
    """The kind of a token with that text; spaces around it do not count."""
    text = text.strip()
    if text.replace("'", "").lower() in STYLE:
        return "style"
    if text.isdecimal():
        return "digits"
    if text.removeprefix("\\") in COMMANDS or (text and all(map(_sign, text))):
        return "operators"
    return "other"


def _sign(letter: str) -> bool:
    return letter in SIGNS or unicodedata.category(letter) == "Sm"
