"""The shape of a model, and how it is trained: what `budget` and `work` count by.

Shapes: D hidden size, V vocabulary, Q = heads * head_dim, K = kv_heads * head_dim, F width of the
feed-forward network. Models of Llama's kind (Llama, Qwen 2 and 3, Mistral): pre-normalised layers
without biases, rotary positions, grouped heads, a gated feed-forward network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from autodidact.spec import Gather

Teacher = Literal["none", "off", "initial", "ema"]
OUTER = ("words", "norm", "head")
BASE = ("layer", *OUTER)
"""Kinds of weights that a model has without an adapter; those outside of its layers."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model; `norms` for Qwen 3's own norms of queries and keys."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    words: int
    tied: bool
    norms: bool = True

    @classmethod
    def of(cls, config: Any) -> Shape:
        """That of a config of transformers."""
        return cls(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size,
            config.num_attention_heads, config.num_key_value_heads, config.head_dim,
            config.vocab_size, config.tie_word_embeddings, config.model_type == "qwen3",
        )  # fmt: skip

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the seven matrices of a layer."""
        d, q, k, f = self.hidden, self.query, self.key, self.inner
        return [(q, d), (k, d), (k, d), (d, q), (f, d), (f, d), (d, f)]

    @property
    def linear(self) -> int:
        """Weights of a layer that tokens are multiplied by."""
        return sum(rows * columns for rows, columns in self.matrices)

    @property
    def vectors(self) -> list[int]:
        """Sizes of the norms of a layer."""
        return [self.hidden] * 2 + [self.head_dim] * 2 * self.norms

    @property
    def vocabulary(self) -> int:
        """Weights of the embedding, and so of the head."""
        return self.words * self.hidden

    @property
    def weights(self) -> int:
        return sum(rows * columns for _, rows, columns in tensors(self, 0))


MODELS = {
    "Qwen3-1.7B": Shape(28, 2048, 6144, 16, 8, 128, 151_936, True),
    "Qwen3-8B": Shape(36, 4096, 12_288, 32, 8, 128, 151_936, False),
    "Qwen3-32B": Shape(64, 5120, 25_600, 64, 8, 128, 151_936, False),
    "Llama-3-70B": Shape(80, 8192, 28_672, 64, 8, 128, 128_256, False, norms=False),
}


@dataclass(frozen=True)
class Plan:
    """How a model is trained.

    Attributes:
        ranks: processes. spread: `--parallel fsdp`, each holds a share; else ddp, each holds all.
        lora: rank of the adapter, 0 trains all weights. half: `--precision bf16`.
        recompute: activation checkpointing.
        teacher: "none"; "off", the policy with its adapter off; "initial", a frozen copy; "ema",
            an average, kept in float32.
        tokens, asked: fed in one piece of a batch, and of those the ones that are learned from.
        rows, prompt, length: drawn at a time on this rank, and tokens of the longest.
        gather: `--gather`, what a rank has of a policy that is spread while it draws.
        gpu: a CPU reads a head that is stored in float32, in smaller pieces.
    """

    ranks: int = 1
    spread: bool = False
    lora: int = 0
    half: bool = True
    recompute: bool = False
    teacher: Teacher = "none"
    tokens: int = 0
    asked: int = 0
    rows: int = 0
    prompt: int = 0
    length: int = 0
    gather: Gather = "all"
    gpu: bool = True

    def __post_init__(self):
        assert self.teacher != "off" or self.lora, "only an adapter can be switched off"
        assert self.teacher != "initial" or not self.lora, "the adapter is switched off instead"
        assert self.ranks == 1 or self.tokens >= self.asked

    @property
    def stored(self) -> int:
        """Bytes of a weight that is loaded: frozen ones are in half precision, see `model.load`."""
        return 2 if self.half and self.lora else 4

    @property
    def computed(self) -> int:
        """Bytes of a weight that a layer computes with."""
        return 2 if self.half else 4

    @property
    def frozen(self) -> int:
        """Bytes of a weight of the teacher's own copy."""
        return {"none": 0, "off": 0, "initial": self.stored, "ema": 4}[self.teacher]


def tensors(shape: Shape, lora: int) -> list[tuple[str, int, int]]:
    """(kind, rows, columns) of all weights. Kind: layer, adapter, words, norm or head."""
    found = [("words", shape.words, shape.hidden), ("norm", shape.hidden, 1)]
    found += [] if shape.tied else [("head", shape.words, shape.hidden)]
    layer = [("layer", *each) for each in shape.matrices]
    layer += [("layer", size, 1) for size in shape.vectors]
    if lora:
        for rows, columns in shape.matrices:
            layer += [("adapter", lora, columns), ("adapter", rows, lora)]
    return found + layer * shape.layers


def numbers(shape: Shape, plan: Plan, *kinds: str) -> int:
    """Weights of these kinds that the first rank holds at rest, which has the most.

    A tensor is cut into as many pieces as there are ranks, along its rows, rounded up.
    """
    parts = plan.ranks if plan.spread else 1
    cut = tensors(shape, plan.lora)
    return sum(-(-rows // parts) * columns for kind, rows, columns in cut if kind in kinds)
