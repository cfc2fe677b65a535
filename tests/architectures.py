"""Tiny randomly initialised models of many transformers architectures."""

from __future__ import annotations

from typing import Any

import torch

WORDS = 61
LLAMA = {
    "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEADS = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
GPT = {
    "vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 4}
SMALL = {"head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2}

CAUSAL: dict[str, dict[str, Any]] = {
    "qwen3": LLAMA | SMALL,
    "qwen3_moe": LLAMA | SMALL | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16},
    "qwen2": LLAMA | {"tie_word_embeddings": True},
    "llama": LLAMA,
    "mistral": LLAMA | WINDOW,
    "mixtral": LLAMA | EXPERTS | {"num_local_experts": 4},
    "gemma": LLAMA | SMALL,
    "gemma2": LLAMA | SMALL | WINDOW | {"final_logit_softcapping": 2.0},
    "gemma3_text": LLAMA | SMALL | WINDOW,
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},  # a head with a bias
    "gpt_neox": HEADS,
    "gpt_oss": LLAMA | SMALL | WINDOW | EXPERTS | {"num_local_experts": 4},
    "phi": LLAMA,  # a head with a bias
    "phi3": LLAMA,
    "cohere": LLAMA | {"logit_scale": 0.25},
    "granite": LLAMA | {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "olmo2": LLAMA,
    "stablelm": LLAMA,
    "starcoder2": LLAMA,
    "smollm3": LLAMA,
    "glm4": LLAMA | SMALL,
    "nemotron": LLAMA,
    "falcon": HEADS,
    "bloom": {"vocab_size": WORDS, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mpt": {"vocab_size": WORDS, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64},
    "opt": HEADS | {"ffn_dim": 32, "word_embed_proj_dim": 8},
}
"""Architectures that can be scored and drawn from: model type and its small sizes."""
REFUSED = {
    "bert": (HEADS | {"is_decoder": True}, "BertLMHeadModel .* not its output head"),
    "xlnet": (
        {"vocab_size": WORDS, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
        "XLNetLMHeadModel .* not causal",
    ),
}
RECURRENT = {
    "mamba": {"vocab_size": WORDS, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
}


class NoWords:
    """A tokenizer that knows its end token only."""

    eos_token_id = 2
    chat_template = None


def build(kind: str, sizes: dict[str, Any]) -> Any:
    """A random model whose biases and norms are random too, its law far from uniform."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **sizes)
    config.initializer_range = 0.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.data += 0.3 * torch.randn_like(weight)
    return model.eval()
