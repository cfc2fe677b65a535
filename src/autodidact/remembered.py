"""What frozen readers said, computed once: their hidden states, kept in a file.

A law over V words is D numbers and a head that the reader has anyway, so that whole divergences
can be taken of what was remembered, not only of sampled tokens. It pays where the same rows are
read again: given solutions, several epochs, arms over the same stored rollouts.

Shapes: B rows, N asked tokens, D hidden size.

Source: hidden states for logits as in DeepSeek-V4 and Nitrobrew; teachers computed beforehand as in
Lightning OPD.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from autodidact.store import Table
from autodidact.view import View

if TYPE_CHECKING:
    from autodidact.method import Method
    from autodidact.models import Models
    from autodidact.problem import Task


class States(Table):
    """A file of hidden states in float32, a record for each row that somebody read."""

    name = "states"
    columns = "hidden blob"

    def find(self, key: str, size: int) -> Float[torch.Tensor, "n D"] | None:
        """The states under that key, of `size` numbers each."""
        row = self.get(key)
        if row is None:
            return None
        return torch.from_numpy(np.frombuffer(row[0], np.float32).copy()).view(-1, size)

    def add(self, key: str, hidden: Float[torch.Tensor, "n D"]) -> None:
        self.put(key, hidden.float().cpu().numpy().tobytes())


def lasts(view: View) -> bool:
    """Whether what the reader of a view says is the same at any time: its weights never move."""
    kind = view.role.partition(":")[0]
    moving = kind in ("policy", "ema", "copy")
    aligned = view.document is None and view.position is None and len(view.ids) == len(view.at)
    return not view.grad and not moving and aligned


def remembered(models: Models, view: View) -> Float[torch.Tensor, "N D"]:
    """The outputs of a lasting view at its asked tokens; rows not known yet are read and added.

    The ledger is charged for all rows: an arm pays for what it uses, whoever read it first.
    """
    states, reader = models.states, models[view.role]
    assert states is not None
    size = reader.base.config.get_text_config().hidden_size
    keys = [_key(models, view, row) for row in range(len(view.ids))]
    found = {row: states.find(key, size) for row, key in enumerate(keys)}
    missing = [row for row, hidden in found.items() if hidden is None]
    known = [row for row, hidden in found.items() if hidden is not None]
    models.ledger.teacher_forward += int(view.real[known].sum())
    if missing:
        part = _rows(view, missing)
        hidden = models.outputs(part)[part.at[part.asked]]
        pieces = hidden.split(part.asked.sum(1).tolist())
        with states.together():
            for row, piece in zip(missing, pieces, strict=True):
                states.add(keys[row], piece)
                found[row] = piece
    device = view.ids.device
    whole = [hidden.to(device) for hidden in found.values() if hidden is not None]
    return torch.cat(whole)


def precompute(method: Method, models: Models, task: Task, rows: int = 64) -> int:
    """Read every training problem as the frozen teachers of a method will. Returns the rows.

    Args:
        method: one whose rollout draws nothing, or whose rollouts are all in the store.
        rows: of a batch.

    Raises:
        ValueError: the models have no file to remember in.
    """
    if models.states is None:
        raise ValueError("there is no file to remember in: give Models a `states`")
    count = 0
    for start in range(0, len(task.train), rows):
        problems: Sequence = task.train[start : start + rows]
        batch = method.rollout(problems, models, task, 0).to(models.policy.device)
        batch = method.credit(batch, models)
        frozen = {n: v for n, v in method.views(batch, models).items() if lasts(v)}
        with torch.no_grad():
            models.scores(frozen, batch)
        count += len(batch)
    return count


def _key(models: Models, view: View, row: int) -> str:
    """Names the reader, what it reads and where it is asked."""
    reader = models[view.role]
    weights = f"{reader.name}|{view.role}|{reader.autocast}"
    ids = view.ids[row][view.real[row]].tolist()
    asked = (view.at[row][view.asked[row]] - row * view.ids.shape[1]).tolist()
    return hashlib.blake2b(f"{weights}|{ids}|{asked}".encode(), digest_size=16).hexdigest()


def _rows(view: View, rows: Sequence[int]) -> View:
    """Some rows of a view."""
    chosen = torch.tensor(rows, device=view.ids.device)
    width = view.ids.shape[1]
    moved = (torch.arange(len(rows), device=chosen.device) - chosen)[:, None] * width
    at = view.at[chosen]
    return replace(
        view, ids=view.ids[chosen], real=view.real[chosen], at=torch.where(at >= 0, at + moved, -1)
    )
