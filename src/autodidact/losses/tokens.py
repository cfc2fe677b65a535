"""Which tokens count, and how much: weights that any loss with a value per token takes.

Shapes: B rows, T columns. Of a row with L own tokens, t = 1..L, the weight of token t is

uniform          1
prefix:8         1 for t <= 8, else 0 (Prefix OPD, 2602.15260)
prefix:0.5       1 for t <= L/2, rounded up
position:p       (t/L)^p (position-weighted OPSD, 2605.21606)
entropy:0.2      1 for the 20% of tokens where the policy's law is flattest (2506.01939)
lowest:0.2       1 for the 20% of tokens that the sampler thought least likely (OPSA, 2608.31046)
tempo:g          1 + g |V(y_<=t) - V(y_<t)|, V(s) the mean reward of the group's rows that begin
                 with s: a branch that decides counts more (after TEMPO, 2509.18314)
thr:p            1[|THR_t| > tau] (1 + sign(THR_t) p), see `credits.hidden_reward` (2510.03669)
divergence:g     1 + g (1 - sum_{u<t} |A_u| / sum_u |A_u|), A = log p(y) - log q(y), q the teacher
                 (IW-OPD, 2606.22600)
overlap:k        1 where y is among the k likeliest words of the student and of the teacher (after
                 2604.13016)

and of several, "prefix:0.5 * entropy:0.2", the product. "tempo" and "thr" compare graded rows of
a group. All but the last two are data: they are made before a batch is split, from all its tokens
that count, and rescaled so that their sum is that of the method's own weights. (The paper of
"entropy" divides by the number of all tokens.) "divergence" and "overlap" are known only where
both laws have been read. They multiply the values as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float

from autodidact.batch import Batch
from autodidact.credits.hidden_reward import hidden_reward, steered
from autodidact.credits.prefix import branch_values
from autodidact.credits.quantile import highest
from autodidact.method import Method
from autodidact.models import Models
from autodidact.names import choose
from autodidact.parallel import total
from autodidact.teachers import Teacher
from autodidact.view import plain

if TYPE_CHECKING:
    from autodidact.scores import Scores

Amount = int | Fraction
"""As written: 8 is a count, 0.5 a share, exactly."""
Weigh = Callable[[Batch], Float[torch.Tensor, "B T"]]
Loss = Callable[[Mapping[str, "Scores"], Batch], Float[torch.Tensor, "B T"]]

ALONE = Teacher(((1.0, "teacher"),))
"""Whoever reads the view "teacher"."""


def _count(x: Amount) -> bool:
    return isinstance(x, int) and x >= 1


def _share(x: Amount) -> bool:
    return isinstance(x, Fraction) and 0 < x <= 1


KINDS: dict[str, tuple[Callable[[Amount], bool], str]] = {
    "prefix": (lambda x: _count(x) or _share(x), "a count as in prefix:8, or a share, prefix:0.5"),
    "position": (lambda x: x > 0, "a power above 0, as in position:1"),
    "entropy": (_share, "a share, as in entropy:0.2"),
    "lowest": (_share, "a share, as in lowest:0.2"),
    "tempo": (lambda x: x > 0, "a number above 0, as in tempo:1"),
    "thr": (lambda x: -1 <= x <= 1, "a number from -1 to 1, as in thr:0.1 or thr:-0.1"),
    "divergence": (lambda x: x >= 0, "a number, as in divergence:0.5"),
    "overlap": (_count, "a count of words, as in overlap:16"),
}
"""What each kind's number may be, and how to say so."""
LATE = ("divergence", "overlap")
"""Kinds that are known only when the loss is."""
MADE: dict[str, Callable[[Batch, Models, float], torch.Tensor]] = {
    "entropy": lambda batch, models, x: models.score(plain(batch), batch).entropy.detach(),
    "tempo": lambda batch, models, x: 1 + x * branch_values(batch).abs(),
    "thr": lambda batch, models, x: steered(*hidden_reward(batch, models), x),
}
"""Streams that some kinds need, by name: what makes them, [B, T]."""
GRADED = ("tempo", "thr")
"""Kinds that ask for rewards, and so for answers."""


@dataclass(frozen=True)
class Tokens:
    """Weights of tokens, as the option `tokens` of a method says.

    Attributes:
        terms: (kind, number) of each factor; none for "uniform".

    Raises:
        ValueError: an unknown kind, a number that it does not take, or a kind twice.
    """

    terms: tuple[tuple[str, Amount], ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    @classmethod
    def parse(cls, text: str) -> Tokens:
        if text == "uniform":
            return cls(())
        terms = tuple(_term(each.strip()) for each in text.split("*"))
        names = [name for name, _ in terms]
        if len(set(names)) < len(names):
            raise ValueError(f"tokens {text!r} names a kind twice")
        return cls(terms)

    def on(self, method: Method, judge: Teacher = ALONE) -> Method:
        """The method with these weights upon its own; itself for "uniform".

        Args:
            judge: the teacher of "overlap", where it is more than the view "teacher".
        """
        if not self.terms:
            return method
        graded = ("answer",) if set(self.kinds) & set(GRADED) else ()
        return replace(
            method,
            needs=tuple(dict.fromkeys((*method.needs, *graded))),
            credit=lambda batch, models: self.credit(method.credit(batch, models), models),
            weigh=self.weigh(method.weigh),
            loss=self.loss(method.loss, judge),
        )

    def credit(self, batch: Batch, models: Models) -> Batch:
        """The batch with what its weights are made of; "entropy" and "thr" read it once more."""
        made = {
            name: MADE[name](batch, models, float(amount))
            for name, amount in self.terms
            if name in MADE
        }
        return batch.put(**made)

    def weigh(self, base: Weigh) -> Weigh:
        """The weights known as data, times those of `base`, with the same sum over all ranks.

        Tokens that `base` leaves out are no part of a share. All are 0 where no token is left.
        """
        early = [(name, amount) for name, amount in self.terms if name not in LATE]
        if not early:
            return base

        def weighed(batch: Batch) -> Float[torch.Tensor, "B T"]:
            given = base(batch)
            assert given.shape == batch.ids.shape, "a loss with a value per token"
            found = given.double()
            for name, amount in early:
                found = found * _early(name, amount, batch, given > 0)
            whole, left = total(given.double().sum()), total(found.sum())
            return (found * (whole / left.clamp(min=torch.finfo(left.dtype).tiny))).to(given.dtype)

        return weighed

    def loss(self, loss: Loss, judge: Teacher = ALONE) -> Loss:
        """The loss with each value times the weights that are known only then."""
        late = [(name, amount) for name, amount in self.terms if name in LATE]
        if not late:
            return loss

        def weighed(scores: Mapping[str, Scores], batch: Batch) -> Float[torch.Tensor, "B T"]:
            # With these weights the loss is another sum than the one `Scores.weight` speaks of.
            policy = replace(scores["policy"], weight=None)
            values = loss({**scores, "policy": policy}, batch)
            assert values.shape == batch.ids.shape, "a loss with a value per token"
            for name, amount in late:
                if name == "divergence":
                    values = values * amplified(policy, batch.own, float(amount))
                else:
                    assert isinstance(amount, int)
                    values = values * overlapping(policy, _judged(scores, judge), amount)
            return values

        return weighed


def _term(text: str) -> tuple[str, Amount]:
    name, _, written = text.partition(":")
    choose("tokens", name, ("uniform", *KINDS))
    if name == "uniform":
        raise ValueError("tokens 'uniform' stands alone, without a number or other factors")
    allowed, means = KINDS[name]
    if not re.fullmatch(r"-?(\d+|\d*\.\d+)", written):
        raise ValueError(f"tokens {text!r}: {name!r} takes {means}")
    amount = Fraction(written) if "." in written else int(written)
    if not allowed(amount):
        raise ValueError(f"tokens {text!r}: {name!r} takes {means}")
    return name, amount


def _early(
    name: str, amount: Amount, batch: Batch, counted: Bool[torch.Tensor, "B T"]
) -> torch.Tensor:
    """The factor of a kind that is data, [B, T]; of use where a token counts."""
    if name == "entropy":
        return highest(batch.take("entropy"), counted, amount)
    if name in GRADED:
        return batch.take(name)
    if name == "lowest":
        return highest(-batch.take("raw"), counted, amount)
    place, length = batch.own.cumsum(1), batch.own.sum(1, keepdim=True)
    if name == "position":
        return (place.double() / length.clamp(min=1)) ** float(amount)
    assert name == "prefix"
    if isinstance(amount, int):
        return place <= amount
    return place * amount.denominator < length * amount.numerator + amount.denominator


@torch.no_grad()
def amplified(
    policy: Scores, own: Bool[torch.Tensor, "B T"], amount: float
) -> Float[torch.Tensor, "B T"]:
    """1 + g (1 - the share of sum_u |A_u| that lies before the token), after a divergence.

    Raises:
        ValueError: the loss compared the policy with no teacher.
    """
    if "teacher_logp" not in policy.notes:
        raise ValueError("tokens 'divergence' needs a loss with a divergence to a teacher")
    gap = torch.where(own, policy.notes["logp"] - policy.notes["teacher_logp"], 0.0).abs()
    whole = gap.sum(1, keepdim=True).clamp(min=torch.finfo(gap.dtype).tiny)
    return 1 + amount * (1 - (gap.cumsum(1) - gap) / whole)


@torch.no_grad()
def overlapping(policy: Scores, teacher: Scores, k: int) -> Bool[torch.Tensor, "B T"]:
    """Where the token is among the k likeliest words of both; one more walk over each head."""
    return policy.asked & (policy.rank < k) & (teacher.rank < k)


def _judged(scores: Mapping[str, Scores], judge: Teacher) -> Scores:
    if "teacher" not in scores:
        raise ValueError(
            f"tokens 'overlap' needs a teacher, and this loss reads {', '.join(scores)} only"
        )
    return judge.scores(scores)
