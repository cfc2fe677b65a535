"""Teachers: one role, or several whose logits are added with weights.

Shapes: N asked tokens, D hidden size, V vocabulary, [B, T] the batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.head import Head
from autodidact.scores import Scores
from autodidact.view import View, reread

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.problem import Message

TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?([^\s*]+)\s*")
Weight = float | Float[torch.Tensor, "B T"]


@dataclass(frozen=True)
class Teacher:
    """Who judges the student's tokens: softmax(sum_i w_i z_i), z_i the logits of a role.

    Written as a role, such as "initial", "policy", "ema:0.99", "copy:50" or a folder; as
    "trust:a", a share a of the live policy in the initial weights, 1-a and a (the trust region of
    SDPO, 2601.20802); or as a sum, "1.25*folder - 0.25*initial" (ExOPD, 2602.12125). Weights need
    not sum to 1: their sum is an inverse temperature.

    Attributes:
        terms: (weight, role) of each.

    Raises:
        ValueError: a text that is none of these, or a role twice.
    """

    terms: tuple[tuple[float, str], ...]

    def __post_init__(self):
        roles = [role for _, role in self.terms]
        if not roles or len(set(roles)) < len(roles):
            raise ValueError(f"the roles of a teacher must be different ones, not {roles}")

    @classmethod
    def parse(cls, text: str) -> Teacher:
        kind, _, share = text.partition(":")
        if kind == "trust":
            if not re.fullmatch(r"0?\.\d+", share):
                raise ValueError(
                    f"teacher {text!r}: the share of the policy must be a number between 0 and 1, "
                    "as in trust:0.05"
                )
            return cls(((1 - float(share), "initial"), (float(share), "policy")))
        if not re.search(r"\s[+-]\s|\*", text):
            return cls(((1.0, text),))
        terms: list[tuple[float, str]] = []
        at = 0
        while at < len(text):
            found = TERM.match(text, at)
            if found is None or (terms and not found[1]):
                raise ValueError(
                    f"teacher {text!r} is neither a role nor a sum such as "
                    "1.25*folder - 0.25*initial"
                )
            sign = -1.0 if found[1] == "-" else 1.0
            terms.append((sign * float(found[2] or 1), found[3]))
            at = found.end()
        return cls(tuple(terms))

    def views(
        self,
        batch: Batch,
        models: Models,
        prompts: Sequence[Sequence[Message]],
        *,
        name: str = "teacher",
        thinking: bool | None = None,
    ) -> dict[str, View]:
        """A view for each role, all of the same prompts: `name`, then `name 2`, `name 3` ..."""
        roles = [role for _, role in self.terms]
        one = reread(batch, models, prompts, roles[0], thinking=thinking)
        return {_name(name, i): replace(one, role=role) for i, role in enumerate(roles)}

    def scores(self, scores: Mapping[str, Scores], name: str = "teacher") -> Scores:
        """What the teacher says, from the scores of its views."""
        found = [scores[_name(name, i)] for i in range(len(self.terms))]
        return mixed(found, [weight for weight, _ in self.terms])


def _name(name: str, number: int) -> str:
    return name if number == 0 else f"{name} {number + 1}"


def mixed(parts: Sequence[Scores], weights: Sequence[Weight]) -> Scores:
    """Scores of the law softmax(sum_i w_i z_i) at every token, z_i the logits of each part.

    z = sum_i w_i s_i (W_i h_i + b_i) is one head over one hidden state: where all parts have the
    same head, over sum_i w_i h_i; else [W_1 W_2 ...] over (w_1 s_1 h_1, w_2 s_2 h_2, ...), a copy
    of all heads side by side. A bias is one column more. Nothing carries gradient.

    Args:
        weights: numbers, or one for each token of the batch.

    Raises:
        ValueError: heads of different size, or with a soft cap, which is not linear.
    """
    first = parts[0]
    if len(parts) == 1 and isinstance(weights[0], float) and weights[0] == 1:
        return first
    if any(part.head.softcap is not None for part in parts):
        raise ValueError("logits with a soft cap cannot be added: they are no product any more")
    sizes = {part.head.words for part in parts}
    if len(sizes) > 1:
        raise ValueError(f"vocabularies of {sorted(sizes)} words cannot be added")
    assert all(torch.equal(part.asked, first.asked) for part in parts)
    assert all(part.temperature == first.temperature for part in parts)
    with torch.no_grad():
        each = [_at_tokens(weight, first) for weight in weights]
        pieces = [
            weight * part.head.scale * part.hidden for weight, part in zip(each, parts, strict=True)
        ]
        same = all(part.head.same_product(first.head) for part in parts)
        hidden = sum(pieces[1:], pieces[0]) if same else torch.cat(pieces, 1)
        columns = [first.head.weight] if same else [part.head.weight for part in parts]
        for weight, part in zip(each, parts, strict=True):
            if part.head.bias is not None:
                column = (weight * part.head.scale).expand(len(hidden), 1)
                hidden = torch.cat([hidden, column], 1)
                columns.append(part.head.bias[:, None])
        matrix = columns[0] if len(columns) == 1 else torch.cat(columns, 1)
        head = Head(matrix.detach())
    return Scores(hidden, head, first.asked, first.targets, first.temperature)


def _at_tokens(weight: Weight, scores: Scores) -> Float[torch.Tensor, "n 1"]:
    """The weight of each asked token, or one for all."""
    like = scores.hidden
    if isinstance(weight, torch.Tensor):
        return weight[scores.asked][:, None].to(like.dtype)
    return like.new_full((1, 1), weight)
