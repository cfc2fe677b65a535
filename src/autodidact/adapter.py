"""LoRA adapters: attaching one, and the weights that a model with one computes with."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float


def adapt(model: Any, rank: int, alpha: int, seed: int) -> Any:
    """The model with a LoRA adapter of that rank on all linear layers but the head."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers 5.23 by a name that is going away; nothing a user can change.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def effective_weights(model: Any) -> dict[str, Float[torch.Tensor, "..."]]:
    """The weights a model computes with, LoRA adapters merged, by the base model's names.

    Merged weights are float32: a small adapter is lost in bfloat16.
    """
    if not hasattr(model, "peft_config"):
        return {name: value.detach() for name, value in model.named_parameters()}
    from peft.tuners.lora import LoraLayer

    base, weights = model.get_base_model(), {}
    merged = {
        name: layer.get_delta_weight(adapter)  # type: ignore[attr-defined]
        for name, layer in base.named_modules()
        if isinstance(layer, LoraLayer)
        for adapter in layer.active_adapters
    }
    for name, value in base.named_parameters():
        if "lora_" in name:
            continue
        owner, _, last = name.removesuffix(".weight").rpartition(".")
        if last == "base_layer":
            delta = merged[owner].to(torch.promote_types(value.dtype, torch.float32))
            weights[f"{owner}.weight"] = value.detach() + delta.detach()
        else:
            weights[name.replace(".base_layer", "")] = value.detach()
    return weights
