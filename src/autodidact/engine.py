"""Engines: what is asked of whatever makes tokens, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from autodidact.law import Law
from autodidact.model import LM
from autodidact.store import Completion


@dataclass(frozen=True)
class Request:
    """One completion that is asked for.

    Attributes:
        prompt: what the policy reads first. With `sample` and the seed it names the draw.
        sample: the number of the completion among those of its prompt.
        length: at most so many new tokens.
        begun: tokens that follow the prompt already. The new ones are those that a draw from the
            prompt alone has at their places, if it went through the same tokens until there.
        canvas: for a masked model, the whole completion with `None` where it is to be written;
            empty where all of it is.
    """

    prompt: tuple[int, ...]
    sample: int
    length: int
    begun: tuple[int, ...] = ()
    canvas: tuple[int | None, ...] = ()

    @property
    def read(self) -> tuple[int, ...]:
        """Everything that is read before the first new token."""
        return self.prompt + self.begun


class Drawn(NamedTuple):
    """What an engine made: for each request the new tokens, and what it cost.

    Attributes:
        completions: one for each request, in their order; only the new tokens.
        read: prompt tokens that were read, shared ones once where the engine reads them once.
        drafted: tokens that another model proposed.
        calls: canvases that were read, see `Ledger`.
        verified: tokens that the policy read beyond those that it drew: proposals that fell, and
            completions of another program that it read again.
    """

    completions: list[Completion]
    read: int
    drafted: int = 0
    verified: int = 0
    calls: int = 0


class Engine(Protocol):
    """Draws from the weights of a model as they are when it is called."""

    @property
    def name(self) -> str:
        """Part of the name of stored rollouts."""
        ...

    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request, drawn from exactly that law.

        Raises:
            ValueError: a request that does not fit the context, see `fits`, or a model, a law or
                a server that the engine cannot serve, with the reason.
        """
        ...


@runtime_checkable
class Outside(Engine, Protocol):
    """An engine with weights of its own, those of the policy at some time."""

    def follow(self, lm: LM, together: bool = False) -> None:
        """See to it that it has the weights of now, as far as that is known and possible.

        A draw does so by itself. Weights that are spread over processes it could not gather.

        Args:
            together: all processes of the run call this at the same time.

        Raises:
            ValueError: it cannot get them.
        """
        ...


def fits(lm: LM, requests: Sequence[Request]) -> None:
    """`ValueError` where a request does not fit the context of the model."""
    for request in requests:
        before = len(request.read)
        if before + request.length > lm.context:
            raise ValueError(
                f"a prompt of {before} tokens and {request.length} new ones do not fit the "
                f"context of {lm.context} tokens"
            )
