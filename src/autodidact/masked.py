"""Masked diffusion language models: LLaDA and Dream checkpoints, read without their own code.

Both are decoders that read both ways, under other names: LLaDA (2502.09992) is Llama, Dream is
Qwen2, whose outputs still speak about the token one column later. They are loaded as these
classes of transformers with `is_causal=False`, which any model folder may say of itself; what is
saved is such a folder. `publish` writes the published layout again.

What a model of this kind is for `LM`: `causal` is false, `mask` the id that stands for a token not
known yet, `shift` how many columns before a token the output about it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from autodidact.model import LM

LLADA = (
    ("model.transformer.wte.", "model.embed_tokens."),
    ("model.transformer.ln_f.", "model.norm."),
    ("model.transformer.ff_out.", "lm_head."),
    ("model.transformer.blocks.#.attn_norm.", "model.layers.#.input_layernorm."),
    ("model.transformer.blocks.#.ff_norm.", "model.layers.#.post_attention_layernorm."),
    ("model.transformer.blocks.#.q_proj.", "model.layers.#.self_attn.q_proj."),
    ("model.transformer.blocks.#.k_proj.", "model.layers.#.self_attn.k_proj."),
    ("model.transformer.blocks.#.v_proj.", "model.layers.#.self_attn.v_proj."),
    ("model.transformer.blocks.#.attn_out.", "model.layers.#.self_attn.o_proj."),
    ("model.transformer.blocks.#.ff_proj.", "model.layers.#.mlp.gate_proj."),
    ("model.transformer.blocks.#.up_proj.", "model.layers.#.mlp.up_proj."),
    ("model.transformer.blocks.#.ff_out.", "model.layers.#.mlp.down_proj."),
)
"""Published beginnings of parameter names, and ours; # is the number of a layer."""
FIXED: Mapping[str, Mapping[str, Any]] = {
    "llada": {
        "block_type": "llama", "layer_norm_type": "rms", "layer_norm_with_affine": True,
        "activation_type": "silu", "rope": True, "alibi": False, "include_bias": False,
        "include_qkv_bias": False, "bias_for_layer_norm": False, "attention_layer_norm": False,
        "input_emb_norm": False, "scale_logits": False, "clip_qkv": None, "block_group_size": 1,
        "multi_query_attention": None,
    },
    "Dream": {"rope_scaling": None, "use_sliding_window": False},
}  # fmt: skip
"""What a configuration may say, where it says anything, to be Llama or Qwen2 read both ways."""


@dataclass(frozen=True)
class Layout:
    """A published layout of checkpoints.

    Attributes:
        shift: columns between an output and the token that it speaks about.
        names: see `LLADA`; none where the names are those of transformers.
        sizes: what a configuration must say.
        make: the untrained transformers model of a published configuration.
    """

    shift: int
    names: tuple[tuple[str, str], ...]
    sizes: tuple[str, ...]
    make: Callable[[Mapping[str, Any]], Any]

    def check(self, config: Mapping[str, Any]) -> None:
        """`ValueError` for what a configuration lacks or says beyond what is supported."""
        kind = config["model_type"]
        if absent := [name for name in self.sizes if config.get(name) is None]:
            raise ValueError(f"a {kind} configuration without {', '.join(absent)} says too little")
        fixed = FIXED[kind]
        # Nothing at all and false are the same in published configurations.
        wrong = {
            name: config[name]
            for name, allowed in fixed.items()
            if (config.get(name, allowed) or None) != (allowed or None)
        }
        if wrong:
            allowed = {key: fixed[key] for key in wrong}
            raise ValueError(f"a {kind} model with {wrong} is not supported; allowed: {allowed}")


def _llada(config: Mapping[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = config["n_heads"]
    made = LlamaConfig(
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        hidden_size=config["d_model"],
        intermediate_size=config["mlp_hidden_size"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("n_kv_heads") or heads,
        max_position_embeddings=config["max_sequence_length"],
        rms_norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)},
        tie_word_embeddings=config.get("weight_tying", False),
    )
    return LlamaForCausalLM(made)


def _dream(config: Mapping[str, Any]) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    kept = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
        "tie_word_embeddings", "hidden_act",
    )  # fmt: skip
    given = {name: config[name] for name in kept if name in config}
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)}
    return Qwen2ForCausalLM(Qwen2Config(**given, rope_parameters=rope))


LAYOUTS = {
    "llada": Layout(
        0, LLADA,
        ("vocab_size", "d_model", "mlp_hidden_size", "n_layers", "n_heads", "max_sequence_length"),
        _llada,
    ),
    "Dream": Layout(
        1, (),
        (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads",
        ),
        _dream,
    ),
}  # fmt: skip


def published(place: str, revision: str | None = None) -> Path | None:
    """The folder of a model in a published layout; `None` for one that transformers knows itself.

    A model of the hub is downloaded, its code aside. Raises `OSError` where there is none.
    """
    from transformers.utils import cached_file

    config = cached_file(place, "config.json", revision=revision)
    assert config is not None, "a missing one is an OSError"
    if json.loads(Path(config).read_text(encoding="utf-8")).get("model_type") not in LAYOUTS:
        return None
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    return Path(snapshot_download(place, revision=revision, allow_patterns=patterns))


def tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder of a published layout: a fast one, whatever class it names."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    kind = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if kind.get("tokenizer_class") == "DreamTokenizer":
        return Qwen2Tokenizer.from_pretrained(folder)
    if "auto_map" in kind or (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def read(folder: Path) -> Any:
    """The model in a folder of a published layout, in float32.

    Raises:
        ValueError: a configuration that is not supported, weights that are missing or of another
            shape, or others than the layout has.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layout = LAYOUTS[config["model_type"]]
    layout.check(config)
    model = layout.make(config)
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
    ours = {renamed(name, layout.names): value for name, value in weights.items()}
    embedding = "model.embed_tokens.weight"
    if model.config.tie_word_embeddings and embedding in ours:
        ours.setdefault("lm_head.weight", ours[embedding])
    _fill(model, ours, folder)
    model.config.is_causal = False
    model.config.output_shift = layout.shift
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        if config.get(name) is not None:
            setattr(model.config, name, config[name])
    more = folder / "generation_config.json"
    said = json.loads(more.read_text(encoding="utf-8")) if more.is_file() else {}
    ends = said.get("eos_token_id", config.get("eos_token_id"))
    model.generation_config.eos_token_id = ends
    return model


def _fill(model: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Weights into a model; `ValueError` unless they are those of its configuration."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [n for n, size in wanted.items() if given.get(n, size) != size],
    }
    if any(wrong.values()):
        said = "; ".join(f"{how}: {', '.join(names[:3])}" for how, names in wrong.items() if names)
        raise ValueError(f"{folder}: the weights are not those of its configuration; {said}")
    model.load_state_dict(weights)


def publish(lm: LM, folder: Path, config: Mapping[str, Any]) -> None:
    """Write a model in the published layout that a configuration names, tokenizer included."""
    from safetensors.torch import save_file

    layout = LAYOUTS[config["model_type"]]
    back = tuple((ours, theirs) for theirs, ours in layout.names)
    state = lm.base.state_dict()
    if lm.base.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    weights = {renamed(name, back): value.contiguous() for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
    lm.tokenizer.save_pretrained(folder)


def renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    """A parameter's name in the other layout; itself where no rule is about it."""
    for old, new in names:
        rule = re.escape(old).replace(r"\#", "([0-9]+)")
        if found := re.match(rule, name):
            number = found[1] if found.groups() else ""
            return new.replace("#", number) + name[found.end() :]
    return name
