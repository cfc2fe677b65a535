"""Activation checkpointing: the same numbers, and of the activations only what layers hand on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from architectures import CAUSAL, NoWords, build
from autodidact.learn import gradients
from autodidact.methods.sft import sft
from autodidact.model import LM
from autodidact.models import Models
from autodidact.pack import packed
from autodidact.trunk import heard, layers
from test_attention import ROWS, assert_same, read
from test_pack import view_of
from toys import random_qwen, toy_task


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_architecture_has_the_same_gradients(kind):
    lm = LM(build(kind, CAUSAL[kind]), NoWords(), f"a tiny {kind}")
    views = [view_of(ROWS)]
    views += [packed(views[0], None, 2)] if lm.shares else []
    for view in views:
        assert_same(read(replace(lm, recompute=True), view), read(lm, view), 1e-6)


def test_a_method_has_the_same_gradient_and_the_model_is_left_as_it_was(tokenizer):
    found = []
    for recompute in (False, True):
        lm = replace(random_qwen(tokenizer), recompute=recompute)
        models, method = Models(lm), sft()
        batch = method.rollout(toy_task().train, models, toy_task(), 0)
        found.append(torch.cat([g.flatten() for g in gradients(method, models, batch).policy]))
        assert all("forward" not in vars(layer) for layer in layers(lm.base.base_model))
    assert torch.allclose(*found, rtol=1e-12)


def kept(lm: LM) -> int:
    """Numbers that autograd keeps for the backward pass over the trunk, weights left out."""
    seen: dict[int, int] = {}
    weights = {p.data_ptr() for p in lm.base.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        if value.data_ptr() not in weights:
            seen[value.data_ptr()] = value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        output = lm.read(view_of(ROWS), use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(seen.values())


def test_less_is_kept(qwen):
    assert kept(replace(qwen, recompute=True)) < kept(qwen) / 4


def test_without_gradient_nothing_is_wrapped(qwen):
    with torch.no_grad():
        sparing = replace(qwen, recompute=True).read(view_of(ROWS)).last_hidden_state
        assert torch.equal(sparing, qwen.read(view_of(ROWS)).last_hidden_state)


def test_what_layers_are_given_is_heard(qwen):
    trunk, view = qwen.base.base_model, view_of(ROWS)
    with torch.no_grad():
        expected = qwen.read(view, output_hidden_states=True, use_cache=False).hidden_states
        with heard(trunk, {0, 1}) as found:
            qwen.read(view, use_cache=False)
    assert sorted(found) == [0, 1]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_a_trunk_without_layers_is_named():
    trunk = torch.nn.Linear(2, 2)
    trunk.config = build("qwen3", CAUSAL["qwen3"]).config
    with pytest.raises(ValueError, match="Linear has no list of 2 layers"):
        layers(trunk)
