"""A language model of any subset: it tells the law of any hidden places given all others.

Shapes: B rows, T places, D hidden size, V words. Beside the tokens stands their order, `rank`
[B, T]: 0 for given ones, 1, 2, ... for hidden ones in the order in which they are written. Two
streams run through the same layers: the content of a place knows its own token, the query of a
place does not. Both read the contents of what was written before them, so that one reading gives
the chain log p(x) = sum_r log p(x_r | ranks below r) of any order.

Source: Reviving Any-Subset Autoregressive Models, arXiv 2504.20456; the streams are XLNet's
(arXiv 1906.08237). `engines.assd` draws from such a model.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from autodidact.law import Law


class Layer(nn.Module):
    """Attention and a perceptron, for contents and queries alike."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.told = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, both: Float[torch.Tensor, "B R D"], seen: Bool[torch.Tensor, "B R S"]
    ) -> Float[torch.Tensor, "B R D"]:
        """Contents, the first S of the R rows, then queries; `seen` says what each row reads."""
        state = self.first(both)
        asked = self._split(self.ask(state))
        keys, values = map(self._split, self.told(state[:, : seen.shape[2]]).chunk(2, -1))
        read = functional.scaled_dot_product_attention(asked, keys, values, seen[:, None])
        both = both + self.out(read.transpose(1, 2).flatten(2))
        return both + self.narrow(functional.gelu(self.wide(self.second(both))))

    def _split(self, state: Float[torch.Tensor, "B R D"]) -> Float[torch.Tensor, "B H R E"]:
        return state.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AnySubset(nn.Module):
    """A two-stream transformer with learned positions.

    Args:
        words: V, the mask included.
        places: the most places of a row.
        mask: the word that may stand at hidden places; it is neither read there nor ever drawn.
    """

    def __init__(
        self,
        words: int,
        places: int,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        mask: int = 0,
    ):
        super().__init__()
        self.mask = mask
        self.word = nn.Embedding(words, width)
        self.place = nn.Embedding(places, width)
        # A content that all may read, so that a query without any given token reads something.
        self.start = nn.Parameter(torch.zeros(width))
        self.query = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(
        self, ids: Int[torch.Tensor, "B T"], rank: Int[torch.Tensor, "B T"]
    ) -> Float[torch.Tensor, "B T V"]:
        """Logits of each place's word, given the words of lower rank."""
        rows, size = ids.shape
        where = self.place(torch.arange(size, device=ids.device)).expand(rows, -1, -1)
        start = self.start.expand(rows, 1, -1)
        both = torch.cat([start, self.word(ids) + where, self.query + where], 1)
        seen = reads(rank)
        for layer in self.layers:
            both = layer(both, seen)
        # The mask is no word: it stands where none is known yet.
        bare = torch.tensor([self.mask], device=ids.device)
        return self.head(self.norm(both[:, 1 + size :])).index_fill(-1, bare, -torch.inf)


def reads(rank: Int[torch.Tensor, "B T"]) -> Bool[torch.Tensor, "B R S"]:
    """Which contents each row reads: R = 1 + T contents and T queries, S = 1 + T contents.

    A content reads those of at most its own rank, itself too, a query those of lower rank; given
    tokens read one another. Everything reads the content that comes before all.
    """
    first = torch.cat([torch.full_like(rank[:, :1], -1), rank], 1)
    content = first[:, None] <= first[:, :, None]
    return torch.cat([content, first[:, None] < rank[:, :, None]], 1)


def ranks(given: Bool[torch.Tensor, "B T"]) -> Int[torch.Tensor, "B T"]:
    """The order of the paper: given tokens first, then the others from left to right.

    So each subset has one order, 2^T of them instead of T!.
    """
    return torch.where(given, 0, (~given).cumsum(1))


def chain(
    model: nn.Module, ids: Int[torch.Tensor, "B T"], given: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, "B T"]:
    """log p of each hidden token given those of lower rank; 0 at given ones."""
    _, logp = Law().log_probs(model(ids, ranks(given)).flatten(0, 1))
    own = logp.gather(1, ids.flatten()[:, None]).view(ids.shape)
    return own.masked_fill(given, 0.0)


def loss(
    model: nn.Module, ids: Int[torch.Tensor, "B T"], given: Bool[torch.Tensor, "B T"]
) -> Float[torch.Tensor, ""]:
    """Cross-entropy of the hidden tokens in their order, a mean over them.

    L = -sum_r log p(x_r | given, x_1 .. x_{r-1}) / #hidden
    """
    return -chain(model, ids, given).sum() / (~given).sum()


def masking_rate(
    step: int, warmup: int, start: float = 0.15, final: tuple[float, float] = (0.75, 0.85)
) -> tuple[float, float]:
    """The least and greatest share of hidden tokens at a step: from `start` to `final`, linearly.

    A training that begins with few hidden tokens begins as a masked model does.
    """
    done = min(1.0, step / max(1, warmup))
    low, high = (start + done * (end - start) for end in final)
    return low, high


def hide(
    shape: tuple[int, int], rates: tuple[float, float], random: torch.Generator
) -> Bool[torch.Tensor, "B T"]:
    """Which places are given: in each row a share in `rates` is hidden, at least one place."""
    rows, size = shape
    low, high = rates
    share = low + (high - low) * torch.rand(rows, 1, generator=random)
    count = (share * size).round().clamp(1, size)
    order = torch.rand(shape, generator=random).argsort(1).argsort(1)
    return order >= count
