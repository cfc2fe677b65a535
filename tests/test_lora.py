"""LoRA: the initial teacher is the adapter switched off, averages are of merged weights."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from autodidact import checkpoint
from autodidact.adapter import effective_weights
from autodidact.batch import batch_of
from autodidact.methods.opsd import opsd
from autodidact.model import load
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain
from toys import toy_task

PROBE = torch.tensor([[2, 50, 51, 52, 3, 60]])


def trained(precision: str = "fp32", teacher: str = "initial", steps: int = 2) -> Training:
    models = Models(load("tiny", lora=4, precision=precision))
    found = Training(opsd(length=6, teacher=teacher), models, toy_task(8), Run(rows=4, lr=2e-2))
    models[teacher]
    for _ in range(steps):
        found.advance()
    return found


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(PROBE).logits.float()


def rows():
    task, lm = toy_task(3), load("tiny")
    prompts = [lm.render(task.prompt(p)) for p in task.train]
    return batch_of(task.train, prompts, [lm.encode(p.solution) for p in task.train], task)


def test_a_fresh_adapter_changes_nothing(tiny):
    lm = load("tiny", lora=4)
    assert torch.equal(logits(lm.model), logits(tiny.model))
    again, other = load("tiny", lora=4), load("tiny", lora=4, seed=1)
    one, two, three = (dict(each.model.named_parameters()) for each in (lm, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


def test_every_linear_layer_but_the_head_has_one_and_nothing_else_learns():
    lm = load("tiny", lora=4)
    learning = {name for name, p in lm.model.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    linear = [n for n, m in load("tiny").model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(learning) == 2 * len([name for name in linear if name != "lm_head"])
    config = lm.model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (4, 8)
    assert load("tiny", lora=4, lora_alpha=5).model.peft_config["default"].lora_alpha == 5


def test_initial_is_the_adapter_switched_off_and_equals_the_base(tiny):
    found = trained()
    batch, base = rows(), Models(tiny)
    expected = base.score(plain(batch, grad=False), batch).logp
    assert torch.equal(found.models.score(plain(batch, "initial"), batch).logp, expected)
    moved = found.models.score(plain(batch, grad=False), batch).logp
    assert float((moved - expected).abs().max()) > 1e-3
    assert found.models["initial"].model is found.models.policy.model, "no second copy"


def test_reading_as_initial_leaves_the_policy_switched_on():
    found = trained()
    before = logits(found.models.policy.model)
    batch = rows()
    found.models.score(plain(batch, "initial"), batch)
    assert torch.equal(logits(found.models.policy.model), before)
    scores = found.models.score(plain(batch), batch)
    scores.logp.sum().backward()
    gradients = {
        n: p.grad for n, p in found.models.policy.model.named_parameters() if p.grad is not None
    }
    assert gradients and all("lora_" in name for name in gradients)


def test_effective_weights_are_what_the_model_computes_with(tiny):
    found = trained()
    merged = copy.deepcopy(tiny.model)
    state = effective_weights(found.models.policy.model)
    assert state.keys() == dict(merged.named_parameters()).keys()
    merged.load_state_dict(state, strict=False)
    assert torch.allclose(logits(merged), logits(found.models.policy.model), atol=1e-4)
    assert not torch.allclose(logits(merged), logits(tiny.model), atol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_average_is_of_merged_weights_not_of_factors(precision):
    """w <- d w + (1-d) (W + BA) at each step; averaging A and B would give another product."""
    d = 0.9
    found = trained(precision, f"ema:{d}", steps=0)
    average = {n: p.clone() for n, p in found.models[f"ema:{d}"].model.named_parameters()}
    start = {name: value.clone() for name, value in average.items()}
    for _ in range(3):
        found.advance()
        live = effective_weights(found.models.policy.model)
        average = {n: d * value + (1 - d) * live[n].float() for n, value in average.items()}
    kept = dict(found.models[f"ema:{d}"].model.named_parameters())
    moved = 0.0
    for name, value in kept.items():
        assert value.dtype == torch.float32
        assert torch.allclose(value, average[name], rtol=0, atol=1e-6), name
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-3


def test_a_slow_average_moves_in_bfloat16_too():
    """One step of 0.001 is far below the spacing of bfloat16 numbers."""
    found = trained("bf16", "ema", steps=0)
    before = {n: p.clone() for n, p in found.models["ema"].model.named_parameters()}
    found.advance()
    live = effective_weights(found.models.policy.model)
    after = dict(found.models["ema"].model.named_parameters())
    for name in (n for n in after if n.endswith("q_proj.weight")):
        step = live[name] - before[name]
        assert float(step.abs().max()) > 1e-3
        assert torch.allclose(after[name] - before[name], 1e-3 * step, rtol=0.01, atol=1e-7)


def test_the_checkpoint_is_an_adapter_of_peft(tmp_path, tiny):
    from peft import AutoPeftModelForCausalLM, PeftModel

    found = trained()
    path = checkpoint.save(found, tmp_path)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["task_type"] == "CAUSAL_LM"
    assert not (path / "model.safetensors").exists()
    expected = logits(found.models.policy.model)
    model = PeftModel.from_pretrained(copy.deepcopy(tiny.model), path)
    assert torch.equal(logits(model.eval()), expected)
    assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(path).eval()), expected)


def test_bfloat16_stores_the_base_in_half_and_learns_in_whole():
    models = Models(load("tiny", lora=4, precision="bf16"))
    dtypes = {p.requires_grad: p.dtype for p in models.policy.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    found = Training(opsd(length=6), models, toy_task(8), Run(rows=4, lr=2e-2))
    before = {n: p.clone() for n, p in models.policy.model.named_parameters()}
    _, line = found.advance()
    assert line["skipped"] == 0 and line["loss"] > 0 and line["mismatch_max"] < 0.1
    changed = {
        n for n, p in models.policy.model.named_parameters() if not torch.equal(p, before[n])
    }
    assert changed and all("lora_" in name for name in changed)


def test_full_fine_tuning_in_bfloat16_keeps_whole_weights():
    """An update of 1e-5 is lost in bfloat16 and kept here."""
    models = Models(load("tiny", precision="bf16"))
    found = Training(opsd(length=6), models, toy_task(8), Run(rows=4, lr=1e-5))
    before = {n: p.clone() for n, p in models.policy.model.named_parameters()}
    _, line = found.advance()
    assert line["mismatch_max"] < 0.1
    for name, weight in models.policy.model.named_parameters():
        assert weight.dtype == torch.float32
        step = (weight - before[name]).detach().abs().max()
        assert 0 < float(step) <= 1.1e-5
