"""Decoders that read several tokens of each row at once, and forget as many as they are told.

Shapes: B live rows, K tokens of each, H heads of E over H' heads of keys and values, C columns,
D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch.nn.functional import pad, scaled_dot_product_attention

from autodidact.engines.copies import unit
from autodidact.engines.decoder import repeated
from autodidact.engines.lean import Layer, layers_of, lean
from autodidact.engines.prefill import empty_cache, prefill
from autodidact.model import LM


class Rewind(Protocol):
    """Rows of which each has come as far as it has.

    Attributes:
        refills: whether rows may join others that are already on their way.
        prefilled: prompt tokens that have been read.
        size: [B], how many tokens of each row are remembered.
    """

    refills: bool
    prefilled: int
    size: Int[torch.Tensor, "B"]

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> None:
        """Read prompts and add so many rows of each."""
        ...

    def keep(self, rows: Int[torch.Tensor, "B"]) -> None:
        """Drop all rows but these."""
        ...

    def read(self, tokens: Int[torch.Tensor, "B K"]) -> Float[torch.Tensor, "B K D"]:
        """Read K further tokens of each row. Those beyond the context mean nothing."""
        ...

    def forget(self, count: Int[torch.Tensor, "B"]) -> None:
        """Go back by so many tokens in each row, as if they had never been read."""
        ...


def rewind(lm: LM, rows: int, columns: int) -> Rewind:
    """The fastest decoder that a model allows, for so many rows of at most so many tokens.

    Raises:
        ValueError: a model whose cache cannot go back: one with sliding windows or a recurrent
            state.
    """
    return Slab(lm, rows, columns) if lean(lm) else Shifted(lm)


class Shifted:
    """Any model of transformers, through its own forward pass and cache.

    All rows end in the last column. After rows went back by different numbers of tokens, their
    keys and values are moved there again, which costs about what attention does to read them.
    """

    refills = False

    def __init__(self, lm: LM):
        from transformers.cache_utils import DynamicLayer

        if any(type(layer) is not DynamicLayer for layer in empty_cache(lm).layers):
            raise ValueError(
                f"{type(lm.base).__name__} ({lm.name}) cannot go back to earlier tokens, as "
                "speculative decoding must: it has layers with a sliding window"
            )
        self.lm, self.prefilled = lm, 0

    def admit(self, prompts, copies):
        self.cache, hidden, self.real, position, count = prefill(self.lm, prompts)
        self.size = position + 1
        self.prefilled += count
        self.keep(repeated(copies, hidden.device))

    def keep(self, rows):
        self.cache.batch_select_indices(rows)
        self.real, self.size = self.real[rows], self.size[rows]

    def read(self, tokens):
        width = tokens.shape[1]
        position = self.size[:, None] + torch.arange(width, device=tokens.device)
        self.real = pad(self.real, (0, width), value=True)
        self.size = self.size + width
        return self.lm.hidden(
            tokens, self.real, position_ids=position.clamp(max=self.lm.context - 1),
            past_key_values=self.cache, use_cache=True,
        ).last_hidden_state  # fmt: skip

    def forget(self, count):
        self.size = self.size - count
        width, before = int(self.size.max()), self.real.shape[1]
        column = torch.arange(width, device=count.device)
        self.real = column >= width - self.size[:, None]
        source = (before - width + column - count[:, None]).clamp(min=0)
        row = torch.arange(len(count), device=count.device)[:, None]
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = (
                each.transpose(1, 2)[row, source].transpose(1, 2)
                for each in (layer.keys, layer.values)
            )


class Slab:
    """A decoder for models of Llama's kind, see `lean`, over one slab of keys and values.

    Token i of every row stands in column i. What is forgotten stays where it is and is masked until
    it is overwritten.
    """

    refills = True

    def __init__(self, lm: LM, rows: int, columns: int):
        trunk, config = lm.base.base_model, lm.base.config.get_text_config()
        self.lm, self.trunk, self.prefilled = lm, trunk, 0
        self.layers = layers_of(trunk)
        like = trunk.embed_tokens.weight
        size, heads = self.layers[0].size, config.num_key_value_heads
        kind = torch.bfloat16 if lm.autocast else like.dtype
        # Not `empty`: what is masked is multiplied by zero, and nan would survive that.
        self.slab = torch.zeros(
            len(self.layers), 2, rows, columns, heads, size, dtype=kind, device=like.device
        )
        at = torch.arange(min(lm.context, columns), device=like.device)
        with self._reading():
            cos, sin = (each[0] for each in trunk.rotary_emb(like[None, :1], at[None]))
        half = size // 2
        self.cos, self.sin = cos, torch.cat([-sin[:, :half], sin[:, half:]], -1)
        self.size = torch.empty(0, dtype=torch.long, device=like.device)

    def _reading(self):
        return torch.autocast(self.lm.device.type, torch.bfloat16, self.lm.autocast)

    def admit(self, prompts, copies):
        cache, _, real, position, count = prefill(self.lm, prompts)
        self.prefilled += count
        source, columns = repeated(copies, real.device), real.shape[1]
        rows = slice(len(self.size), len(self.size) + len(source))
        # Prompts end together there, and begin together here.
        column = torch.arange(columns, device=real.device) + (columns - 1 - position)[:, None]
        place = source[:, None], column.clamp(max=columns - 1)[source]
        layers: list[Any] = cache.layers
        for slab, layer in zip(self.slab, layers, strict=True):
            slab[0, rows, :columns] = layer.keys.transpose(1, 2)[place]
            slab[1, rows, :columns] = layer.values.transpose(1, 2)[place]
        self.size = torch.cat([self.size, position[source] + 1])

    def keep(self, rows):
        used = int(self.size.max())
        for slab in self.slab:
            for half in slab:
                half[: len(rows), :used] = half[rows, :used]
        self.size = self.size[rows]

    def read(self, tokens):
        width = tokens.shape[1]
        place = self.size[:, None] + torch.arange(width, device=tokens.device)
        self.size = self.size + width
        columns = int(self.size.max())
        position = place.clamp(max=len(self.cos) - 1)
        turn = self.cos[position][:, :, None], self.sin[position][:, :, None]
        seen = torch.arange(columns, device=tokens.device) <= place[..., None]
        held = self.slab[:, :, : len(tokens), :columns]
        with self.lm.reading(), self._reading():
            x = self.trunk.embed_tokens(tokens)
            for layer, slab in zip(self.layers, held, strict=True):
                x = _read(layer, x, *turn, slab, place, seen)
            return self.trunk.norm(x)

    def forget(self, count):
        self.size = self.size - count


def _read(
    layer: Layer,
    x: Float[torch.Tensor, "B K D"],
    cos: Float[torch.Tensor, "B K 1 E"],
    sin: Float[torch.Tensor, "B K 1 E"],
    slab: Float[torch.Tensor, "2 B C H E"],
    place: Int[torch.Tensor, "B K"],
    seen: Bool[torch.Tensor, "B K C"],
) -> Float[torch.Tensor, "B K D"]:
    """One layer; the keys and values of the new tokens are written at their places."""
    rows, width, size = *x.shape[:2], layer.size
    heads, both, shared = layer.widths[0] // size, sum(layer.widths), slab.shape[3]
    mixed = layer.qkv(x)
    turned = mixed[..., :both].reshape(rows, width, -1, size)
    if layer.inner is not None:
        turned = unit(turned, layer.inner[1]) * layer.inner[0]
    turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
    row = torch.arange(rows, device=x.device)[:, None]
    slab[0][row, place] = turned[:, :, heads:].to(slab.dtype)
    slab[1][row, place] = mixed[..., both:].reshape(rows, width, shared, size).to(slab.dtype)
    # The heads that share a key stand as queries of it: nothing is repeated.
    query = turned[:, :, :heads].transpose(1, 2).reshape(rows, shared, -1, size).to(slab.dtype)
    mask = seen.repeat(1, heads // shared, 1)[:, None]
    keys, values = slab[0].transpose(1, 2), slab[1].transpose(1, 2)
    found = scaled_dot_product_attention(query, keys, values, mask, scale=layer.scale)
    found = found.reshape(rows, heads, width, size).transpose(1, 2).reshape(rows, width, -1)
    x = x + layer.out(found)
    gate, up = layer.gate_up(x).chunk(2, -1)
    return x + layer.down(layer.act(gate) * up)
