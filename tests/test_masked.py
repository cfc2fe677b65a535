"""Published layouts of masked models, against the forward pass of their papers written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autodidact.engine import Request
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from autodidact.masked import FIXED, LAYOUTS, LLADA, publish, published, read, renamed
from autodidact.masked import tokenizer as foreign
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.view import noised
from tabular import written
from toys import WORDS

LLADA_CONFIG = {
    "model_type": "llada", "architectures": ["LLaDAModelLM"], "auto_map": {"AutoModel": "x.Y"},
    "activation_type": "silu", "block_type": "llama", "block_group_size": 1, "d_model": 32,
    "embedding_size": WORDS, "eos_token_id": 4, "include_bias": False, "include_qkv_bias": False,
    "layer_norm_type": "rms", "mask_token_id": 3, "max_sequence_length": 64, "mlp_hidden_size": 48,
    "multi_query_attention": False, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "rope": True,
    "pad_token_id": 0, "rms_norm_eps": 1e-4, "rope_theta": 500.0, "vocab_size": WORDS - 7,
    "weight_tying": False,
}  # fmt: skip
DREAM_CONFIG = {
    "model_type": "Dream", "architectures": ["DreamModel"], "auto_map": {"AutoModel": "x.Y"},
    "attention_dropout": 0.0, "eos_token_id": 4, "hidden_act": "silu", "hidden_size": 32,
    "intermediate_size": 48, "mask_token_id": 3, "max_position_embeddings": 64,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 4,
    "rms_norm_eps": 1e-4, "rope_scaling": None, "rope_theta": 500.0, "tie_word_embeddings": False,
    "use_sliding_window": False, "vocab_size": WORDS,
}  # fmt: skip
CASES = {
    "llada": LLADA_CONFIG,
    "llada, all heads, tied": LLADA_CONFIG | {"n_kv_heads": None, "weight_tying": True},
    "dream": DREAM_CONFIG,
    "dream, all heads, tied": DREAM_CONFIG
    | {"num_key_value_heads": 4, "tie_word_embeddings": True},
}


def put(folder: Path, config: Mapping[str, Any], tokenizer, seed: int = 0) -> Path:
    """A random model in the layout that its configuration names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LAYOUTS[config["model_type"]].make(config)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.2 * torch.randn(value.shape))
    publish(LM(model, tokenizer), folder, config)
    return folder


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-4).sqrt() * weight


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions of [heads, S, size]: halves are the parts of complex numbers."""
    size = x.shape[-1]
    speed = 500.0 ** (-torch.arange(0, size, 2).double() / size)
    turn = torch.polar(
        torch.ones(x.shape[1], size // 2).double(), torch.arange(x.shape[1])[:, None] * speed
    )
    found = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * turn
    return torch.cat([found.real, found.imag], -1)


def by_hand(folder: Path, ids: list[int]) -> torch.Tensor:
    """Logits [S, V] of a row, from the published weights in float64; every token reads all."""
    weights = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}
    llada = json.loads((folder / "config.json").read_text())["model_type"] == "llada"

    def named(ours: str) -> torch.Tensor | None:
        back = tuple((ours, theirs) for theirs, ours in LLADA)
        return weights.get(renamed(ours, back) if llada else ours)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        out, bias = x @ named(f"{name}.weight").T, named(f"{name}.bias")
        return out if bias is None else out + bias

    x = named("model.embed_tokens.weight")[ids]
    for number in range(2):
        layer = f"model.layers.{number}"
        inner = normed(x, named(f"{layer}.input_layernorm.weight"))
        q, k, v = (
            linear(inner, f"{layer}.self_attn.{n}_proj").unflatten(-1, (-1, 8)).transpose(0, 1)
            for n in "qkv"
        )
        k, v = (part.repeat_interleave(4 // len(part), 0) for part in (k, v))
        seen = (turned(q) @ turned(k).transpose(1, 2) / 8**0.5).softmax(-1) @ v
        x = x + linear(seen.transpose(0, 1).flatten(1), f"{layer}.self_attn.o_proj")
        inner = normed(x, named(f"{layer}.post_attention_layernorm.weight"))
        gate = torch.nn.functional.silu(linear(inner, f"{layer}.mlp.gate_proj"))
        x = x + linear(gate * linear(inner, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj")
    head = named("lm_head.weight")
    head = named("model.embed_tokens.weight") if head is None else head
    return normed(x, named("model.norm.weight")) @ head.T


@pytest.fixture(params=CASES)
def stored(request, tmp_path, tokenizer) -> Path:
    return put(tmp_path / "model", CASES[request.param], tokenizer)


def test_a_published_folder_is_the_forward_pass_of_its_paper(stored):
    lm, rows = load(str(stored)), ([7, 8, 3, 9, 3], [11, 3, 3])
    assert (lm.causal, lm.mask, lm.context) == (False, 3, 64) and 4 in lm.ends
    assert lm.shift == (1 if lm.base.config.model_type == "qwen2" else 0)
    real = torch.arange(5) < torch.tensor([5, 3])[:, None]
    ids = torch.tensor([rows[0], [*rows[1], 20, 20]])
    with torch.no_grad():
        states = lm.hidden(ids, real, use_cache=False).last_hidden_state
    for row, words in enumerate(rows):
        found = lm.head().logits(states[row, : len(words)])
        assert torch.allclose(found.double(), by_hand(stored, words), atol=2e-4)


def test_published_names_are_those_of_the_paper(tmp_path, tokenizer):
    llada = set(load_file(put(tmp_path / "a", LLADA_CONFIG, tokenizer) / "model.safetensors"))
    assert llada == {
        "model.transformer.wte.weight", "model.transformer.ln_f.weight",
        "model.transformer.ff_out.weight",
        *(
            f"model.transformer.blocks.{number}.{name}.weight"
            for number in range(2)
            for name in (
                "attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj",
                "up_proj", "ff_out",
            )
        ),
    }  # fmt: skip
    dream = load_file(put(tmp_path / "b", DREAM_CONFIG, tokenizer) / "model.safetensors")
    assert {"model.layers.1.self_attn.q_proj.bias", "lm_head.weight"} <= dream.keys()
    assert "model.layers.1.self_attn.o_proj.bias" not in dream
    assert dream["model.layers.0.self_attn.k_proj.bias"].abs().max() > 0.01
    tied = put(tmp_path / "c", CASES["llada, all heads, tied"], tokenizer) / "model.safetensors"
    assert set(load_file(tied)) == llada - {"model.transformer.ff_out.weight"}


def test_views_and_draws_ask_where_the_layout_answers(stored):
    """The output about a token: at its place for LLADA, one column before it for Dream."""
    lm = load(str(stored))
    batch = written(torch.tensor([[20, 21, 22]]), prompt=(7, 8))
    models = Models(lm)
    view = noised(batch, models, batch.own)
    logits = by_hand(stored, [7, 8, 3, 3, 3]).log_softmax(-1)
    expected = [float(logits[column - lm.shift, 18 + column]) for column in (2, 3, 4)]
    found = models.scores({"policy": view}, batch)["policy"].logp[0, 2:].tolist()
    assert found == pytest.approx(expected, abs=2e-4)
    way = Denoise(steps=1)
    (drawn,) = way.draw(lm, [Request((7, 8), 0, 3)], Law(0.0), 0).completions
    logits[:, lm.mask] = -torch.inf
    assert drawn.ids == logits[torch.tensor([2, 3, 4]) - lm.shift].argmax(-1).tolist()


def test_what_is_saved_by_transformers_is_the_same_model(stored, tmp_path):
    lm = load(str(stored))
    lm.model.save_pretrained(tmp_path / "again")
    lm.tokenizer.save_pretrained(tmp_path / "again")
    other = load(str(tmp_path / "again"))
    assert published(str(tmp_path / "again")) is None and published(str(stored)) == stored
    assert (other.causal, other.mask, other.shift) == (False, lm.mask, lm.shift)
    ids = torch.tensor([[7, 8, 3, 9, 3]])
    real = torch.ones_like(ids, dtype=torch.bool)
    states = [each.hidden(ids, real).last_hidden_state for each in (lm, other)]
    assert torch.equal(*states)


def test_shards_and_end_tokens_of_the_folder_are_read(tmp_path, tokenizer):
    folder = put(tmp_path / "model", LLADA_CONFIG, tokenizer)
    whole = load(str(folder))
    weights = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    for number, part in enumerate((weights[:7], weights[7:])):
        save_file(dict(part), folder / f"model-0000{number}-of-00002.safetensors")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 9]}))
    parts = load(str(folder))
    assert whole.ends == {4} and parts.ends == {4, 9}
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["llada", "Dream"])
def test_options_of_another_architecture_are_refused_by_name(kind, tmp_path, tokenizer):
    config = LLADA_CONFIG if kind == "llada" else DREAM_CONFIG
    folder = put(tmp_path / "model", config, tokenizer)
    for name, allowed in FIXED[kind].items():
        wrong = (not allowed) if isinstance(allowed, bool) else "other"
        (folder / "config.json").write_text(json.dumps({**config, name: wrong}))
        with pytest.raises(ValueError, match=name):
            read(folder)
    for name in LAYOUTS[kind].sizes:
        (folder / "config.json").write_text(json.dumps({**config, name: None}))
        with pytest.raises(ValueError, match=f"without {name}"):
            read(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model.transformer.wte.weight": None}, "missing: model.embed_tokens.weight"),
        ({"model.transformer.more.weight": (3,)}, "unknown: model.transformer.more.weight"),
        ({"model.transformer.ln_f.weight": (3,)}, "of another shape: model.norm.weight"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_wrong_weights_are_named(change, reason, tied, tmp_path, tokenizer):
    folder = put(tmp_path / "model", {**LLADA_CONFIG, "weight_tying": tied}, tokenizer)
    weights = load_file(folder / "model.safetensors")
    for name, shape in change.items():
        weights.pop(name, None)
        weights |= {} if shape is None else {name: torch.zeros(shape)}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=reason):
        load(str(folder))


def test_tokenizers_of_foreign_classes_are_read_without_their_code(tmp_path, tokenizer):
    folder = put(tmp_path / "model", LLADA_CONFIG, tokenizer)
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    found = load(str(folder)).tokenizer
    assert found("12+3")["input_ids"] == tokenizer("12+3")["input_ids"]
    assert found.eos_token_id == tokenizer.eos_token_id


def test_the_tokenizer_of_dream_is_that_of_qwen2(tmp_path):
    said = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    words = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "<|mask|>": 4}
    more = {"eos_token": "<|endoftext|>", "mask_token": "<|mask|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | more))
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    found = foreign(tmp_path)
    assert found("abba<|mask|>")["input_ids"] == [2, 1, 0, 4]
    assert (found.eos_token_id, found.mask_token_id) == (3, 4)
