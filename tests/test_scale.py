"""What a run needs on paper, against what models, optimizers and processes really hold and do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from recipes import scale
from recipes import scale_measured as real

from autodidact.engines.actors import packed
from autodidact.engines.lean import Lean
from autodidact.head import Head
from autodidact.lab import budget, work
from autodidact.lab.shapes import BASE, MODELS, Plan, Shape, numbers
from autodidact.models import Models
from autodidact.sweep import sizes

TINY = Shape(3, 64, 160, 6, 2, 24, 512, True)
WAYS = {
    "dense": Plan(half=False),
    "dense, recompute": Plan(half=False, recompute=True),
    "dense, bf16": Plan(),
    "LoRA": Plan(half=False, lora=8),
    "LoRA, bf16": Plan(lora=8),
    "LoRA, bf16, recompute": Plan(lora=8, recompute=True),
}
FEW = 2048
"""Bytes of all tensors at most that are neither weights nor moments, such as counts of steps."""


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_counted_as_transformers_makes_them(name):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    s = MODELS[name]
    kind, make = (Qwen3Config, Qwen3ForCausalLM) if s.norms else (LlamaConfig, LlamaForCausalLM)
    config = kind(
        vocab_size=s.words, hidden_size=s.hidden, intermediate_size=s.inner,
        num_hidden_layers=s.layers, num_attention_heads=s.heads, num_key_value_heads=s.kv_heads,
        head_dim=s.head_dim, tie_word_embeddings=s.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = make(config)
    assert s.weights == sum(p.numel() for p in model.parameters())
    assert Shape.of(config) == s


@pytest.mark.parametrize(
    ("way", "tied"),
    [
        ("dense, recompute", True),
        ("LoRA", False),
        pytest.param("dense, bf16", False, marks=pytest.mark.slow),
        pytest.param("LoRA, bf16", True, marks=pytest.mark.slow),
    ],
)
def test_what_rests_is_exact_and_the_peak_is_near(way, tied):
    case = real.Case(replace(TINY, tied=tied), WAYS[way])
    plan, found = case.planned(), real.held(case)
    rest = budget.resting(case.shape, plan)
    assert found["weights"] == rest["weights"]
    assert found["moments"] == rest["moments"]
    assert found["gradients"] == budget.gradients(case.shape, plan)
    assert 0 <= found["rest"] - sum(rest.values()) <= FEW
    assert max(budget.learning(case.shape, plan).values()) == pytest.approx(found["peak"], rel=0.15)


@pytest.mark.parametrize(
    ("way", "teacher"),
    [("dense, bf16", "initial"), ("dense", "ema"), ("LoRA, bf16", "ema"), ("LoRA, bf16", "off")],
)
def test_a_teacher_has_the_weights_that_it_is_said_to_have(way, teacher):
    plan = replace(WAYS[way], teacher=teacher)
    models = Models(real.made(TINY, plan))
    reader = models["ema" if teacher == "ema" else "initial"].model
    own = set(reader.parameters()) - set(models.policy.model.parameters())
    held = budget.resting(TINY, plan)
    assert sum(each.nbytes for each in own) == held["teacher"]
    assert budget.loading(TINY, plan) == held["teacher"] + held["weights"]
    spread = replace(plan, ranks=2, spread=True)
    assert budget.reading(TINY, spread) == budget.loading(TINY, plan)


@pytest.mark.parametrize("way", WAYS)
def test_activations_are_those_that_autograd_keeps(way):
    case = real.Case(TINY, WAYS[way])
    plan = case.planned()
    expected = budget.activations(TINY, plan)
    expected += 0 if plan.recompute else budget.casts(TINY, plan)
    assert expected == pytest.approx(real.kept(case), rel=0.03)


@pytest.mark.parametrize("way", ["dense", "dense, recompute", "LoRA, bf16, recompute"])
def test_operations_are_those_that_are_counted(way):
    """An adapter's first layer needs no gradient in what it is given: one of three here."""
    plan = WAYS[way]
    predicted, counted = real.operations(real.Case(TINY, plan))
    assert predicted == pytest.approx(counted, rel=0.03 if plan.lora else 1e-9)


def test_keys_and_values_are_those_of_the_local_engine():
    plan = Plan(half=False, rows=5, prompt=7, length=11)
    engine = Lean(real.made(TINY, plan), plan.rows, plan.prompt, plan.length)
    assert budget.drawing(TINY, plan)["keys and values"] == engine.slab.nbytes


@pytest.mark.parametrize("way", ["dense", "LoRA, bf16"])
def test_what_is_sent_to_an_engine_is_exact(way):
    plan = WAYS[way]
    content = packed(real.made(TINY, plan))
    names = 8 + int.from_bytes(content[:8], "little")
    assert work.transfer(TINY, plan.lora, plan.half) == len(content) - names


def test_buffers_of_logits_are_those_of_the_walk():
    plan = Plan(half=False, tokens=900, asked=800, gpu=False)
    chunk, _ = sizes(plan.asked, Head(torch.empty(TINY.words, TINY.hidden)))
    one = budget.head(TINY, plan)["logits"]
    two = budget.head(TINY, replace(plan, teacher="ema"))["logits"]
    assert two - one == chunk * TINY.words * 4


def test_shares_of_all_ranks_are_the_whole_and_what_rounding_adds():
    shape = MODELS["Qwen3-1.7B"]
    whole = numbers(shape, Plan(), *BASE)
    for ranks in (2, 8, 64):
        assert numbers(shape, Plan(ranks=ranks, spread=True), *BASE) * ranks == whole
    assert numbers(shape, Plan(ranks=256, spread=True), *BASE) * 256 > whole, "norms of 128"


def test_the_page_holds_what_the_recipe_prints():
    text = scale.PAGE.read_text(encoding="utf-8")
    assert scale.written(text) == text, "run python -m recipes.scale --write"


# ------------------------------------------------------------------ two processes

SPREAD = {
    "dense, bf16, recompute": Plan(recompute=True, **real.SPREAD),
    "LoRA, bf16, recompute": Plan(lora=8, recompute=True, **real.SPREAD),
    "copied": Plan(ranks=2, half=False),
    "frozen copy, layers": Plan(half=False, teacher="initial", gather="layers", **real.SPREAD),
    "average": Plan(lora=8, teacher="ema", **real.SPREAD),
}


def one(rank: int, place: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{place}/meet", rank=rank, world_size=2)
    found = {name: real.held(real.Case(TINY, plan)) for name, plan in SPREAD.items()}
    Path(place, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    mp.spawn(one, (str(place),), nprocs=2)
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
@pytest.mark.parametrize("name", SPREAD)
def test_shares_and_what_ranks_send_are_exact(ranks, name):
    plan = real.Case(TINY, SPREAD[name]).planned()
    rest = budget.resting(TINY, plan)
    sends = work.gathering(TINY, plan, pieces=2, readings=0)
    sent = sends["learning"] if plan.spread else sends["summing"]
    for found in (rank[name] for rank in ranks):
        assert found["weights"] == rest["weights"]
        assert found["moments"] == rest["moments"]
        assert found["gradients"] == budget.gradients(TINY, plan)
        assert abs(found["rest"] - sum(rest.values())) <= FEW
        assert 0 <= found["received"] - sent <= 1024, "and a few numbers that all ranks add up"


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
@pytest.mark.parametrize("name", [name for name, plan in SPREAD.items() if plan.spread])
def test_what_is_held_to_load_and_to_draw_is_exact(ranks, name):
    """On the second rank: on a CPU the first also has the weights that it deals out, and those lie
    in the same memory. In the plan by layers none is gathered before it is read. While drawing
    FSDP2 may still hold the buffer of the layer that it gathered last."""
    plan = real.Case(TINY, SPREAD[name]).planned()
    loading = budget.loading(TINY, plan)
    assert loading < budget.reading(TINY, plan) + budget.resting(TINY, plan)["weights"]
    assert 0 <= ranks[1][name]["loading"] - loading <= 64, "and a few numbers"
    assert ranks[0][name]["loading"] - loading <= budget.reading(TINY, plan)
    gathered = budget.drawing(TINY, plan)["whole weights"]
    single = Plan(lora=plan.lora)
    inner = plan.computed * (numbers(TINY, single, "layer") + numbers(TINY, single, "adapter"))
    if plan.gather == "layers":
        gathered -= 2 * inner // TINY.layers
    for found in (rank[name] for rank in ranks):
        more = found["opened"] - found["rest"] - gathered
        assert min(abs(more), abs(more - inner // TINY.layers)) <= FEW
