"""Views: what a model sees, and where in its output the answer about each token is.

Shapes: B rows and T columns of the batch, R rows and S columns that the model is fed, n segments.
Law 2: no line outside this file knows about the causal shift or about prompt offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int

from autodidact.batch import Batch

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.problem import Message


@dataclass(frozen=True)
class View:
    """What one role reads.

    Attributes:
        ids, real: the tokens that are fed and which of them are not padding.
        at: index into the R*S outputs (row-major) of the one that speaks about token (b, t) of
            the batch; -1 where nothing is asked.
        role: who reads: "policy", "initial", "ema" or a checkpoint.
        grad: whether gradients flow into the reader.
        position: where each token stands for the reader; `None` for its column.
        document: the number of the segment that each token belongs to, unique over the view, and
            anything where not real; `None` where a row is one document. See `pack.py`.
        parent: for each segment the one whose tokens, and whose ancestors' tokens, it also
            reads; -1 for none. `None` where no segment has a parent.
    """

    ids: Int[torch.Tensor, "R S"]
    real: Bool[torch.Tensor, "R S"]
    at: Int[torch.Tensor, "B T"]
    role: str = "policy"
    grad: bool = False
    position: Int[torch.Tensor, "R S"] | None = None
    document: Int[torch.Tensor, "R S"] | None = None
    parent: Int[torch.Tensor, "n"] | None = None

    @property
    def asked(self) -> Bool[torch.Tensor, "B T"]:
        return self.at >= 0


def plain(batch: Batch, role: str = "policy", *, grad: bool | None = None) -> View:
    """The rows as they are. Asked are the own tokens, each of the output one column before it.

    `grad` defaults to true for the policy and false for every other role.
    """
    assert not batch.own[:, :1].any(), "a row begins with its prompt: nothing precedes token 0"
    rows, width = batch.ids.shape
    before = torch.arange(rows * width, device=batch.ids.device).view(rows, width) - 1
    at = torch.where(batch.own, before, -1)
    return View(batch.ids, batch.real, at, role, role == "policy" if grad is None else grad)


def noised(
    batch: Batch,
    models: Models,
    hidden: Bool[torch.Tensor, "R T"],
    row: Int[torch.Tensor, "R"] | None = None,
    asked: Bool[torch.Tensor, "R T"] | None = None,
    role: str = "policy",
    *,
    grad: bool | None = None,
) -> View:
    """Canvases of a masked language model: rows of the batch with some tokens hidden.

    Args:
        hidden: where the mask token stands in each canvas.
        row: which row of the batch each canvas is of; by default one canvas of each row.
        asked: which tokens a canvas is asked about, its hidden own tokens by default. A token may
            be asked in one canvas of its row only.
    """
    reader = models[role]
    rows = torch.arange(len(batch), device=batch.ids.device) if row is None else row
    columns = batch.ids.shape[1]
    asked = hidden & batch.own[rows] if asked is None else asked
    canvas, column = asked.nonzero(as_tuple=True)
    at = torch.full(batch.ids.shape, -1, device=batch.ids.device)
    assert len(torch.unique(rows[canvas] * columns + column)) == len(canvas), "asked once"
    assert bool((column >= reader.shift).all()), "something precedes what is asked"
    at[rows[canvas], column] = canvas * columns + column - reader.shift
    ids = torch.where(hidden, reader.mask, batch.ids[rows])
    return View(ids, batch.real[rows], at, role, role == "policy" if grad is None else grad)


def read_to(batch: Batch, role: str = "policy") -> View:
    """The rows as they are, without gradient. Asked are the own tokens, each of the output at its
    own column: the state of a reader who has read the token, which says nothing about it yet."""
    rows, width = batch.ids.shape
    here = torch.arange(rows * width, device=batch.ids.device).view(rows, width)
    return View(batch.ids, batch.real, torch.where(batch.own, here, -1), role)


def reread(
    batch: Batch,
    models: Models,
    prompts: Sequence[Sequence[Message]],
    role: str = "policy",
    *,
    grad: bool = False,
    thinking: bool | None = None,
) -> View:
    """The same own tokens after another prompt: a privileged teacher, a judge, a contrast.

    Args:
        prompts: messages for each row, rendered by the chat template of the role's tokenizer.
        thinking: thinking mode of the new prompt; `None` keeps that of the student.

    Raises:
        ValueError: a prompt and its completion do not fit the context of the model. Nothing is
            ever cut.
    """
    reader = models[role]
    heads = [reader.render(messages, thinking) for messages in prompts]
    first = _first_own(batch)
    tails = batch.real.sum(1) - first
    lengths = torch.tensor([len(head) for head in heads], device=first.device) + tails
    width = int(lengths.max())
    if width > reader.context:
        row = int(lengths.argmax())
        raise ValueError(
            f"the prompt of {len(heads[row])} tokens for {batch.rows[row].place} and its "
            f"completion of {int(tails[row])} tokens do not fit the context of {reader.context} "
            f"tokens of role {role!r}"
        )
    shape = (len(batch), width)
    ids = torch.zeros(shape, dtype=torch.long, device=batch.ids.device)
    real = torch.zeros(shape, dtype=torch.bool, device=batch.ids.device)
    at = torch.full(batch.ids.shape, -1, device=batch.ids.device)
    for row, head in enumerate(heads):
        start, length, offset = int(first[row]), int(lengths[row]), len(head)
        stop = start + int(tails[row])
        ids[row, :offset] = torch.tensor(head, device=ids.device)
        ids[row, offset:length] = batch.ids[row, start:stop]
        real[row, :length] = True
        columns = batch.own[row].nonzero().squeeze(1)
        at[row, columns] = row * width + columns - start + offset - 1
    view = View(ids, real, at, role, grad)
    _check_alignment(batch, view, [len(head) for head in heads])
    return view


def _first_own(batch: Batch) -> Int[torch.Tensor, "B"]:
    assert batch.own.any(1).all(), "every row needs at least one own token"
    return batch.own.int().argmax(1)


def _check_alignment(batch: Batch, view: View, heads: Sequence[int]) -> None:
    """The four facts a privileged view must have; a violation is a bug of this file."""
    asked = view.asked
    assert torch.equal(asked, batch.own), "every own token is asked, the end token included"
    spoken_about = view.ids.flatten()[view.at[asked] + 1]
    assert torch.equal(spoken_about, batch.ids[asked]), "the own ids are identical"
    first = _first_own(batch)
    rows = torch.arange(len(batch), device=first.device)
    last_prompt = rows * view.ids.shape[1] + torch.tensor(heads, device=first.device) - 1
    assert torch.equal(view.at[rows, first], last_prompt), "the first answer follows the prompt"
    assert view.real.flatten()[view.at[asked] + 1].all(), "nothing was truncated"
