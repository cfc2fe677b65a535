"""A decoder for models of Llama's kind, in few operations.

Shapes: B live rows, H heads of E over H' heads of keys and values, C columns of the slab,
D hidden size. All rows write into the same column; row b began at column `start[b]`.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import scaled_dot_product_attention

from autodidact.engines.copies import after, copied, small, unit
from autodidact.engines.decoder import repeated
from autodidact.engines.prefill import Prefilled, prefill
from autodidact.model import LM
from autodidact.skeleton import is_share


class Lean:
    """A decoder of Llama's kind in few operations, over one slab of keys and values.

    Of that kind are models of pre-normalised layers, rotary positions, grouped heads and a gated
    feed-forward network (Llama, Mistral, Qwen 2 and 3, SmolLM ...), see `lean`. Weights are read
    live, LoRA included; those of a small model are first copied.

    Args:
        rows: at most so many are written at a time.
        prompt, length: the longest prompt, and the longest completion.
    """

    refills = True

    def __init__(self, lm: LM, rows: int, prompt: int, length: int):
        trunk, config = lm.base.base_model, lm.base.config.get_text_config()
        self.lm, self.trunk, self.prompt, self.read = lm, trunk, prompt, 0
        self.layers = layers_of(trunk)
        like = trunk.embed_tokens.weight
        # Where a row joins, the oldest one has written at most `length` tokens, and it may write as
        # many.
        columns = prompt + 2 * length
        heads, size = config.num_key_value_heads, self.layers[0].size
        kind = torch.bfloat16 if lm.autocast else like.dtype
        self.slab = torch.empty(
            len(self.layers), 2, rows, heads, columns, size, dtype=kind, device=like.device
        )
        at = torch.arange(min(lm.context, prompt + length), device=like.device)
        with self._reading():
            cos, sin = (each[0] for each in trunk.rotary_emb(like[None, :1], at[None]))
        half = size // 2
        self.cos, self.sin = cos, torch.cat([-sin[:, :half], sin[:, half:]], -1)
        self.column = prompt
        self.start = torch.empty(0, dtype=torch.long, device=like.device)

    def _reading(self):
        return torch.autocast(self.lm.device.type, torch.bfloat16, self.lm.autocast)

    def admit(self, prompts, copies):
        read: Prefilled = prefill(self.lm, prompts)
        self.read += read.read
        source = repeated(copies, read.hidden.device)
        live, count, width = len(self.start), len(source), read.real.shape[1]
        assert live + count <= self.slab.shape[2]
        self._make_room()
        here = slice(self.column - width, self.column)
        layers: list[Any] = read.cache.layers
        for slab, layer in zip(self.slab, layers, strict=True):
            slab[0, live : live + count, :, here] = layer.keys[source]
            slab[1, live : live + count, :, here] = layer.values[source]
        self.start = torch.cat([self.start, self.column - 1 - read.position[source]])
        self._mask()
        return read.hidden[source]

    def _make_room(self) -> None:
        """Move what is written to the left, as far as all prompts still fit before the column."""
        first = int(self.start.min()) if len(self.start) else self.column
        shift = min(first, self.column - self.prompt)
        if shift:
            self.slab[..., : self.column - shift, :] = self.slab[
                ..., shift : self.column, :
            ].clone()
            self.column -= shift
            self.start = self.start - shift

    def _mask(self) -> None:
        """[B, 1, 1, C]: minus infinity before a row starts; `None` where all start together."""
        if not len(self.start):
            return
        self.first = int(self.start.min())
        self.mask = None
        if int(self.start.max()) > self.first:
            column = torch.arange(self.first, self.slab.shape[4], device=self.start.device)
            before = column < self.start[:, None]
            kept = torch.zeros((), dtype=self.slab.dtype, device=column.device)
            self.mask = torch.where(before, -torch.inf, kept)[:, None, None]

    def keep(self, rows):
        for slab in self.slab:
            for half in slab:
                held = half[:, :, self.first : self.column]
                held[: len(rows)] = held[rows]
        self.start = self.start[rows]
        self._mask()

    def step(self, tokens):
        # Rows that are over read on until they are dropped, whatever that means.
        live, position = len(tokens), (self.column - self.start).clamp(max=len(self.cos) - 1)
        turn = self.cos[position][:, None], self.sin[position][:, None]
        self.column += 1
        there = slice(self.first, self.column)
        mask = None if self.mask is None else self.mask[..., : self.column - self.first]
        with self.lm.reading(), self._reading():
            x = self.trunk.embed_tokens(tokens)
            for layer, slab in zip(self.layers, self.slab, strict=True):
                x = layer(x, *turn, slab[:, :live, :, there], mask)
            return self.trunk.norm(x)


class Layer:
    def __init__(self, layer: Any, copied: bool):
        attention, feed = layer.self_attn, layer.mlp
        self.size: int = attention.head_dim
        self.scale: float = attention.scaling
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.qkv = after(layer.input_layernorm, parts, copied)
        self.widths = [each.out_features for each in parts[:2]]
        self.inner: tuple[torch.Tensor, float] | None = None
        if hasattr(attention, "q_norm"):
            heads = [width // self.size for width in self.widths]
            weights = (attention.q_norm.weight.detach(), attention.k_norm.weight.detach())
            spread = [w.expand(n, -1) for w, n in zip(weights, heads, strict=True)]
            self.inner = torch.cat(spread), attention.q_norm.variance_epsilon
        self.out, self.act = after(None, [attention.o_proj], copied), feed.act_fn
        self.down = after(None, [feed.down_proj], copied)
        gated = [feed.gate_proj, feed.up_proj]
        self.gate_up = after(layer.post_attention_layernorm, gated, copied)

    def __call__(self, x, cos, sin, slab, mask):
        """x [B, D]; cos and sin [B, 1, E]; slab [2, B, H', C, E], whose last column is written."""
        rows, size = len(x), self.size
        heads = self.widths[0] // size
        both = sum(self.widths)
        mixed = self.qkv(x)
        turned = mixed[:, :both].view(rows, -1, size)
        if self.inner is not None:
            turned = unit(turned, self.inner[1]) * self.inner[0]
        turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
        slab[0, :, :, -1] = turned[:, heads:]
        slab[1, :, :, -1] = mixed[:, both:].view(rows, -1, size)
        # The heads that share a key stand as queries of it: nothing is repeated.
        query = turned[:, :heads].view(rows, slab.shape[2], -1, size).to(slab.dtype)
        found = scaled_dot_product_attention(query, slab[0], slab[1], mask, scale=self.scale)
        x = x + self.out(found.reshape(rows, -1))
        gate, up = self.gate_up(x).chunk(2, -1)
        return x + self.down(self.act(gate) * up)


def layers_of(trunk: Any) -> list[Layer]:
    """The layers of a model, over copies of its weights where it is small."""
    if not small(trunk):
        return [Layer(layer, False) for layer in trunk.layers]
    return copied(trunk, lambda: [Layer(layer, True) for layer in trunk.layers])


# ------------------------------------------------------------------ which one

_KNOWN: WeakKeyDictionary[Any, dict[tuple[bool, bool], bool]] = WeakKeyDictionary()


def lean(lm: LM) -> bool:
    """Whether `Lean` reads as the model itself does: tried once on a few tokens.

    Not where processes have shares of its layers, which only its own forward pass gathers.
    """
    if any(map(is_share, lm.base.base_model.parameters())):
        return False
    kinds = _KNOWN.setdefault(lm.base.base_model, {})
    key = (lm.adapter_off, lm.autocast)
    if key not in kinds:
        kinds[key] = _of_its_kind(lm) and _agrees(lm)
    return kinds[key]


def _of_its_kind(lm: LM) -> bool:
    """Whether the parts that `Lean` calls are there, and no others in their place."""
    trunk, config = lm.base.base_model, lm.base.config.get_text_config()
    layers = getattr(trunk, "layers", None)
    if not layers or not all(
        hasattr(trunk, name) for name in ("embed_tokens", "norm", "rotary_emb")
    ):
        return False
    sliding = getattr(config, "layer_types", None) or ["full_attention"]
    if set(sliding) != {"full_attention"} or getattr(config, "sliding_window", None):
        return False
    attention = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "scaling")
    parts = {"self_attn": attention, "mlp": ("gate_proj", "up_proj", "down_proj", "act_fn")}
    norms = ("input_layernorm", "post_attention_layernorm")
    return all(
        hasattr(getattr(layer, part, None), name)
        for layer in layers
        for part, names in parts.items()
        for name in names
    ) and all(
        hasattr(getattr(layer, norm, None), "variance_epsilon")
        for layer in layers
        for norm in norms
    )  # fmt: skip


@torch.no_grad()
def _agrees(lm: LM) -> bool:
    words = lm.base.base_model.embed_tokens.weight.shape[0]
    prompts = [[(3 + 5 * i) % words for i in range(4)], [(7 + 11 * i) % words for i in range(7)]]
    later = [[(2 + 13 * i) % words, (1 + 17 * i) % words] for i in range(3)]
    rows = torch.arange(2, device=lm.device)
    decoder = Lean(lm, 2, 7, 3)
    found = [decoder.admit(prompts, [1, 1])]
    found += [decoder.step(torch.tensor(tokens, device=lm.device)) for tokens in later]
    for row in rows.tolist():
        ids = torch.tensor([[*prompts[row], *(tokens[row] for tokens in later)]], device=lm.device)
        own = lm.hidden(ids, torch.ones_like(ids, dtype=torch.bool), use_cache=False)
        expected = own.last_hidden_state[0, len(prompts[row]) - 1 :].float()
        ours = torch.stack([each[row] for each in found]).float()
        gap = float((ours - expected).norm() / expected.norm())
        if not gap <= (5e-2 if lm.autocast or found[0].dtype == torch.bfloat16 else 1e-4):
            return False
    return True
