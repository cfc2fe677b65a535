"""One walk over the vocabulary for all that a loss asks, with the gradient taken on the way.

Shapes: N asked tokens, n of one chunk, D hidden size, V vocabulary, m values, k notes.

For every chunk of tokens the walk forms the logits (of student and teacher), lets a `Question`
answer, and where a gradient is wanted overwrites the student's logits by it, so that two [n, V]
buffers are all that is ever alive. With frozen heads, or with a head whose loss is known to be
sum_t weight_t value_t, the gradient is taken in this same walk: 1 product for the student's
logits, 1 for the teacher's, 1 for the hidden states, 1 for the head. Otherwise the walk is made
again in the backward pass.
"""

from __future__ import annotations

import os
import shutil
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int

from autodidact.head import Head, bend
from autodidact.memory import MEMORY, halved
from autodidact.questions import Question

CACHED = 2**20
"""Bytes of the [rows, V] tensors that element-wise work on a CPU goes through at a time."""

CHUNK = 512 * 2**20
"""Bytes of one [n, V] buffer on a GPU, where thin products leave the units idle."""

ROWS = 64
"""Tokens that element-wise work on a GPU takes at a time; always as many, as it is compiled."""

LARGE = 32_768
"""Words from which compiling the element-wise work pays for its few seconds."""


@dataclass(frozen=True)
class Side:
    """One reader of the asked tokens."""

    hidden: Float[torch.Tensor, "N D"]
    head: Head
    temperature: float


@dataclass
class Walk:
    """What is read, and what is asked.

    Attributes:
        weight: [N], what each token's value counts in the loss, if that is known. It only saves
            work: gradients that turn out otherwise are computed anew.
    """

    question: Question
    student: Side
    teacher: Side | None
    targets: Int[torch.Tensor, "N"]
    weight: Float[torch.Tensor, "N"] | None = None

    def run(self) -> tuple[Float[torch.Tensor, "m N"], Float[torch.Tensor, "k N"]]:
        """The values, differentiable in the student's hidden states and head, and the notes."""
        head = self.student.head
        return _Sweep.apply(self.student.hidden, head.weight, head.bias, self)

    def make(
        self, pull: torch.Tensor | None, trains: tuple[bool, bool, bool]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
        """Values, notes and, for sum(pull * values), the gradients in hidden, weight and bias."""
        chunk = sizes(len(self.targets), self.student.head)[0]
        return halved(lambda: self._made(pull, trains), chunk)

    def _made(
        self, pull: torch.Tensor | None, trains: tuple[bool, bool, bool]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
        hidden, head = self.student.hidden, self.student.head
        count, words = len(self.targets), head.words
        wide: dict[str, Any] = {"dtype": head.dtype, "device": hidden.device}
        chunk, rows = sizes(count, head)
        answer = self._element_wise()
        values = torch.empty(len(self.question.values), count, **wide)
        notes = torch.empty(len(self.question.notes), count, **wide)
        grads: list[torch.Tensor | None] = [None, None, None]
        if pull is not None:
            shapes = (hidden.shape, head.weight.shape, (words,))
            grads = [
                torch.zeros(shape, **wide) if wanted else None
                for shape, wanted in zip(shapes, trains, strict=True)
            ]
        logits = torch.empty(2 * chunk if self.teacher else chunk, words, **wide)
        for start in range(0, count, chunk):
            size = min(chunk, count - start)
            here, half = slice(start, start + size), -(-size // rows) * rows
            self._project(here, logits, half)
            student, teacher = logits[:half], logits[half:] if self.teacher else None
            targets = _padded(self.targets[here], chunk)
            pulled = None if pull is None else _padded(pull[:, here].T, chunk)
            for top in range(0, size, rows):
                block = slice(top, top + rows)
                found, noted = answer(
                    student[block],
                    None if teacher is None else teacher[block],
                    targets[block],
                    None if pulled is None else pulled[block],
                )
                filled = slice(start + top, start + min(top + rows, size))
                values[:, filled] = found[:, : filled.stop - filled.start]
                notes[:, filled] = noted[:, : filled.stop - filled.start]
            slope = student[:size]
            if grads[0] is not None:
                grads[0][here] = head.pull(slope)
            if grads[1] is not None:
                head.push(slope, hidden[here], grads[1])
            if grads[2] is not None:
                grads[2] += slope.sum(0)
        return values, notes, grads

    def _project(self, here: slice, out: torch.Tensor, half: int) -> None:
        """Logits of the student from the first row of `out` on, of the teacher from row `half`."""
        head, hidden = self.student.head, self.student.hidden[here]
        size = len(hidden)
        if self.teacher is None:
            head.project(hidden, out[:size])
            return
        other, theirs = self.teacher.head, self.teacher.hidden[here]
        if head.same_product(other):  # twice the rows in one product take less than twice the time
            both = hidden.new_zeros(half + size, hidden.shape[1])
            both[:size], both[half:] = hidden, theirs
            head.project(both, out[: half + size])
            return
        head.project(hidden, out[:size])
        other.project(theirs, out[half : half + size])

    def _element_wise(self) -> Callable:
        head = self.student.head
        other = self.teacher
        bends: tuple[float | None, ...] = (head.scale, head.softcap, self.student.temperature)
        if other:
            bends += (other.head.scale, other.head.softcap, other.temperature)
        compiled = head.words >= LARGE and _compiles(head.weight.device.type)
        return _answer(self.question, bends, compiled)


def sizes(count: int, head: Head) -> tuple[int, int]:
    """Tokens whose logits are formed at once, and how many of them are worked on at a time.

    On a CPU a buffer of logits is at most a quarter of the head, or 128 tokens, or what fits a
    cache: thinner products waste time, thicker ones memory. The first is a multiple of the second.
    """
    row = head.words * head.dtype.itemsize
    if head.weight.is_cuda:
        rows, chunk = ROWS, CHUNK // row
    else:
        rows = max(1, CACHED // row) * torch.get_num_threads()
        chunk = max(head.weight.shape[1] // 4, 128)
    chunk = max(1, min(chunk, count) // MEMORY.parts)
    if head.words < LARGE or MEMORY.parts > 1:  # nothing is compiled for a number of rows
        rows = min(rows, chunk)
    return -(-chunk // rows) * rows, rows


def _padded(values: torch.Tensor, size: int) -> torch.Tensor:
    """Zeros behind, in memory of its own, so that all pieces look alike and are compiled once."""
    found = values.new_zeros(size, *values.shape[1:])
    found[: len(values)] = values
    return found


def _compiles(device: str) -> bool:
    """Whether there is what `torch.compile` needs: Triton on a GPU, a C++ compiler on a CPU."""
    return device == "cuda" or shutil.which(os.environ.get("CXX", "g++")) is not None


@cache
def _answer(question: Question, bends: tuple, compiled: bool) -> Callable:
    """The element-wise work on a few rows of logits; overwrites the student's by the gradient."""

    def work(raw, other, targets, pull):
        bent, slope = bend(raw, *bends[:3])
        logp = bent.log_softmax(-1)
        logq = None
        if other is not None:
            logq = bend(other, *bends[3:])[0].log_softmax(-1)
        values, notes, gradient = question.answer(
            logp, logq, targets, None if pull is None else pull.T
        )
        if gradient is not None:
            raw.copy_(gradient * slope)
        return torch.stack(values), torch.stack(notes)

    if not compiled:
        return work
    # A code object of its own: the compiler counts and limits what it makes of one.
    own = types.FunctionType(
        work.__code__.replace(), work.__globals__, work.__name__, None, work.__closure__
    )
    return torch.compile(own, dynamic=False)


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, walk):
        ctx.walk, ctx.trains = walk, tuple(ctx.needs_input_grad[:3])
        ctx.pull = None
        if any(ctx.trains) and len(walk.question.values) == 1:
            frozen = not any(ctx.trains[1:])
            known = torch.ones(len(hidden), device=hidden.device) if frozen else walk.weight
            if known is not None:
                ctx.pull = known[None].to(walk.student.head.dtype)
        values, notes, ctx.grads = walk.make(ctx.pull, ctx.trains)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(notes)
        return values, notes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, given, _):
        hidden, weight, bias = ctx.saved_tensors
        grads, ctx.grads = ctx.grads, None  # held once, so that the head's is not copied
        if ctx.pull is None or grads is None:
            grads = ctx.walk.make(given, ctx.trains)[2]
        elif not any(ctx.trains[1:]):
            grads[0] = grads[0] * given[0][:, None]
        elif not torch.equal(given, ctx.pull):
            factor = _factor(given[0], ctx.pull[0])
            if factor is None:
                grads = ctx.walk.make(given, ctx.trains)[2]
            else:
                grads = [None if each is None else each.mul_(factor) for each in grads]
        inputs = (hidden, weight, bias)
        cast = [
            None if each is None else each.to(one.dtype)
            for each, one in zip(grads, inputs, strict=True)
        ]
        return *cast, None


def _factor(given: torch.Tensor, known: torch.Tensor) -> torch.Tensor | None:
    """c with given = c known, up to rounding; `None` where there is none."""
    factor = (given * known).sum() / (known * known).sum().clamp(min=torch.finfo(known.dtype).tiny)
    rounding = 8 * torch.finfo(known.dtype).eps
    return factor if torch.allclose(given, factor * known, rtol=rounding, atol=0.0) else None
