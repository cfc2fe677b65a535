"""Checkpoints: loadable elsewhere, whole or not at all, and damage is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from autodidact import checkpoint, manifest
from autodidact.methods.opsd import opsd
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import toy_task

PROBE = torch.tensor([[2, 50, 51, 52, 3]])


def training(lora: int = 0, teacher: str = "ema:0.5") -> Training:
    models = Models(load("tiny", lora=lora))
    return Training(opsd(length=4, teacher=teacher), models, toy_task(8), Run(rows=4, lr=1e-2))


def weights(found: Training) -> dict[str, torch.Tensor]:
    everything = dict(found.models.policy.model.named_parameters())
    for role, lm in found.models.lasting().items():
        everything |= {f"{role} {name}": value for name, value in lm.model.named_parameters()}
    return {name: value.detach().clone() for name, value in everything.items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_training_comes_back_as_it_was(lora, tmp_path):
    first = training(lora)
    first.advance()
    first.advance()
    path = checkpoint.save(first, tmp_path)
    assert path.name == "step-000002" and checkpoint.complete(tmp_path) == [path]
    second = training(lora)
    second.models["ema:0.5"]
    assert not same(weights(first), weights(second))
    checkpoint.restore(second, path)
    assert same(weights(first), weights(second))
    assert (second.step, second.position, second.skips) == (2, 8, 0)
    assert second.models.ledger == first.models.ledger
    left, right = (each.optimizer.state_dict()["state"] for each in (first, second))
    assert left.keys() == right.keys() and left
    assert all(same(left[index], right[index]) for index in left)
    groups = [each.optimizer.state_dict()["param_groups"] for each in (first, second)]
    assert json.dumps(groups[0]) == json.dumps(groups[1])  # JSON has no tuples


def test_the_folder_is_a_model_of_transformers(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = training()
    found.advance()
    path = checkpoint.save(found, tmp_path)
    policy = found.models.policy
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        assert torch.equal(model(PROBE).logits, policy.model(PROBE).logits)
    words = AutoTokenizer.from_pretrained(path)
    assert words.get_vocab() == policy.tokenizer.get_vocab()
    assert words.chat_template == policy.tokenizer.chat_template
    again = load(str(path))
    assert same(dict(again.model.named_parameters()), dict(policy.model.named_parameters()))


def test_nothing_is_pickled_and_every_file_is_in_the_manifest(tmp_path):
    found = training(2)
    found.advance()
    path = checkpoint.save(found, tmp_path)
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert files == {*listed, "manifest.json"}
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_damage_is_named(tmp_path):
    found = training()
    found.advance()
    path = checkpoint.save(found, tmp_path)
    checkpoint.verify(path)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name, content = str(file.relative_to(path)), file.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        for wrong in (bytes(changed), content[: len(content) // 2]):
            file.write_bytes(wrong)
            with pytest.raises(ValueError, match=f"{path}: {name} is "):
                checkpoint.restore(found, path)
        file.unlink()
        with pytest.raises(ValueError, match=f"lacks {name}"):
            checkpoint.restore(found, path)
        file.write_bytes(content)
    checkpoint.restore(found, path)


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("at", ["weights", "optimizer", "manifest", "rename"])
def test_an_interrupted_save_leaves_the_previous_checkpoint(at, tmp_path, monkeypatch):
    import pathlib

    import safetensors.torch

    found = training()
    found.advance()
    first = checkpoint.save(found, tmp_path)
    kept = weights(found)
    found.advance()

    def cut(*args, **kwargs):
        raise PowerCut

    with monkeypatch.context() as patch:
        if at == "weights":
            patch.setattr(type(found.models.policy.model), "save_pretrained", cut)
        elif at == "optimizer":
            patch.setattr(safetensors.torch, "save_file", cut)
        elif at == "manifest":
            patch.setattr(manifest, "digest", cut)
        else:
            patch.setattr(pathlib.Path, "rename", cut)
        with pytest.raises(PowerCut):
            checkpoint.save(found, tmp_path)
    assert checkpoint.complete(tmp_path) == [first]
    other = training()
    other.models["ema:0.5"]
    checkpoint.restore(other, first)
    assert same(weights(other), kept)
    second = checkpoint.save(found, tmp_path)
    assert checkpoint.complete(tmp_path) == [first, second], "the rubble is no obstacle"
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_old_checkpoints_go_when_new_ones_are_complete(tmp_path):
    found = training(teacher="initial")
    for step in (1, 9, 10, 100):
        found.step = step
        checkpoint.save(found, tmp_path)
        checkpoint.prune(tmp_path)
    best = checkpoint.save(found, tmp_path, "best-000009")
    checkpoint.prune(tmp_path)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-000010", "step-000100"]
    assert best.is_dir()


def test_averages_of_another_model_are_refused(tmp_path, tokenizer):
    from toys import random_qwen

    found = training()
    found.advance()
    path = checkpoint.save(found, tmp_path)
    other = training()
    other.models._roles["ema:0.5"] = LM(
        random_qwen(tokenizer, num_hidden_layers=1).model, tokenizer
    )
    with pytest.raises(ValueError, match="those of another model"):
        checkpoint.restore(other, path)


def test_only_the_weights_can_be_taken_back(tmp_path):
    found = training()
    found.advance()
    path, kept = checkpoint.save(found, tmp_path), weights(found)
    found.advance()
    checkpoint.restore_weights(found.models.policy.model, path)
    policy = dict(found.models.policy.model.named_parameters())
    assert all(torch.equal(policy[name], kept[name]) for name in policy)
    assert found.step == 2


def test_a_run_goes_on_as_if_never_stopped(tmp_path):
    """Two more steps after a restore, in another process's worth of objects."""
    first = training(teacher="ema:0.9")
    first.advance()
    path = checkpoint.save(first, tmp_path)
    second = training(teacher="ema:0.9")
    second.models["ema:0.9"]
    checkpoint.restore(second, path)
    for each in (first, second):
        each.run = replace(each.run)
        each.advance()
    assert same(weights(first), weights(second))
