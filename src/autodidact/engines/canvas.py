"""Canvases of masked language models: rows of places, some of which are still to be written.

Shapes: B rows, L places of a canvas, S columns that are fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int

from autodidact.engine import Request
from autodidact.law import prompt_key
from autodidact.model import LM
from autodidact.store import Completion


@dataclass
class Canvas:
    """Rows with the same number of places, as far as they are written.

    Attributes:
        ids, real: [B, S], prompts and canvases. start: [B], where each canvas begins.
        hidden: [B, L], which places are still to be written. open: which were at the start.
        taken: [B], steps so far. step: [B, L], at which of them a place was written.
        logp, raw: [B, L], of its word, under the law and untruncated. sure: [B, L], how sure the
            model was of it.
        keys, samples: [B], which name the draws.
    """

    ids: Int[torch.Tensor, "B S"]
    real: Bool[torch.Tensor, "B S"]
    start: Int[torch.Tensor, "B"]
    hidden: Bool[torch.Tensor, "B L"]
    keys: Int[torch.Tensor, "B"]
    samples: Int[torch.Tensor, "B"]
    open: Bool[torch.Tensor, "B L"] = field(init=False)
    taken: Int[torch.Tensor, "B"] = field(init=False)
    step: Int[torch.Tensor, "B L"] = field(init=False)
    logp: Float[torch.Tensor, "B L"] = field(init=False)
    raw: Float[torch.Tensor, "B L"] = field(init=False)
    sure: Float[torch.Tensor, "B L"] = field(init=False)

    def __post_init__(self):
        self.open = self.hidden.clone()
        self.taken = torch.zeros_like(self.start)
        self.step = torch.zeros_like(self.hidden, dtype=torch.long)
        # In float64, so that no two words become equally sure by rounding.
        self.logp, self.raw, self.sure = (
            torch.zeros_like(self.hidden, dtype=torch.double) for _ in range(3)
        )

    @classmethod
    def of(cls, lm: LM, requests: Sequence[Request]) -> Canvas:
        """Of requests with canvases of one size."""
        places = [r.canvas or (None,) * r.length for r in requests]
        size, most = len(places[0]), max(len(r.read) for r in requests)
        ids = torch.zeros(len(requests), most + size, dtype=torch.long)
        real, hidden = torch.zeros_like(ids, dtype=torch.bool), []
        for row, (request, given) in enumerate(zip(requests, places, strict=True)):
            written = [lm.mask if word is None else word for word in given]
            whole = torch.tensor([*request.read, *written])
            ids[row, : len(whole)], real[row, : len(whole)] = whole, True
            hidden.append([word is None for word in given])
        named = [
            prompt_key([*r.read, *(-1 if w is None else w for w in given)])
            for r, given in zip(requests, places, strict=True)
        ]
        return cls(
            ids.to(lm.device), real.to(lm.device),
            torch.tensor([len(r.read) for r in requests], device=lm.device),
            torch.tensor(hidden, device=lm.device).view(len(requests), size),
            torch.tensor(named, device=lm.device),
            torch.tensor([r.sample for r in requests], device=lm.device),
        )  # fmt: skip

    def put(self, chosen: Bool[torch.Tensor, "B L"], words: Int[torch.Tensor, "B L"]) -> None:
        """Write words at some places."""
        row, place = chosen.nonzero(as_tuple=True)
        self.ids[row, self.start[row] + place] = words[row, place]
        self.hidden &= ~chosen

    def hide(self, chosen: Bool[torch.Tensor, "B L"], mask: int) -> None:
        """Take the words at some places back."""
        row, place = chosen.nonzero(as_tuple=True)
        self.ids[row, self.start[row] + place] = mask
        self.hidden |= chosen

    def completion(self, row: int, ends: frozenset[int]) -> Completion:
        start = int(self.start[row])
        ids = self.ids[row, start : start + self.hidden.shape[1]].tolist()
        finished = bool(ends.intersection(ids)) or not bool(self.open[row].all())
        return Completion(
            ids, self.logp[row].tolist(), self.raw[row].tolist(), finished,
            order=self.step[row].tolist(),
        )  # fmt: skip
