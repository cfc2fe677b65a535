"""The random Qwen3 that benchmarks draw from, and a tokenizer for one that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

WORDS = 4096


@dataclass
class Silent:
    """A tokenizer that knows an end token."""

    eos_token_id: int = WORDS - 1
    chat_template: None = None


def random_qwen(
    hidden: int, layers: int, words: int = WORDS, end: int | None = WORDS - 1, seed: int = 0
) -> Any:
    """Heads of 64, half as many of keys and values, tied embeddings, float32.

    Args:
        end: the end token of its config, `None` for none.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=words, hidden_size=hidden, intermediate_size=3 * hidden, head_dim=64,
        num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128), max_position_embeddings=4096,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=end,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()
