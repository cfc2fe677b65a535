"""F10: training that has nothing to learn from: a finite loss of zero, no 0/0, and a diagnosis."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.diagnose import diagnose
from autodidact.learn import learn
from autodidact.methods.dapo import dapo
from autodidact.methods.dr_grpo import dr_grpo
from autodidact.methods.grpo import grpo
from autodidact.methods.gspo import gspo
from autodidact.methods.opsd import opsd
from autodidact.methods.reinforce_pp import reinforce_pp
from autodidact.methods.rloo import rloo
from autodidact.methods.sft import sft
from autodidact.models import Models
from autodidact.problem import Task
from autodidact.run import Run
from autodidact.train import Training
from toys import toy_task

CALL = {"model": {"end": 4, "pad": 0, "template": True}}
RUN = Run(steps=2, rows=8, lr=1e-2)
GROUPED = [grpo, dr_grpo, dapo, gspo, rloo]


def task_with(**changes) -> Task:
    return replace(toy_task(8), **changes)


def trained(lm, method, task: Task, steps: int = 2) -> tuple[list[dict], float]:
    """The lines of a short run, all finite, and by how much the weights moved."""
    before = [p.detach().clone() for p in lm.model.parameters()]
    training = Training(method, Models(lm), task, RUN)
    lines = [training.advance()[1] for _ in range(steps)]
    for line in lines:
        assert line["skipped"] == 0 and training.fault is None
        for name, value in line.items():
            assert not isinstance(value, float) or math.isfinite(value), name
    after = [p.detach() for p in lm.model.parameters()]
    moved = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    return lines, moved


def whats(lines) -> list[str]:
    return [each.what for each in diagnose(lines, CALL)]


@pytest.mark.parametrize("make", GROUPED)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_all_rewards_equal(qwen, make, reward):
    task = task_with(reward=lambda rows, texts: [reward] * len(texts))
    lines, moved = trained(qwen, make(n=4, length=6), task)
    assert moved == 0
    if all(line["empty"] for line in lines):
        assert whats(lines) == ["No row was left to learn from"]
    else:
        assert lines[0]["loss"] == pytest.approx(0, abs=1e-12) and lines[0]["grad_norm"] < 1e-9
        assert whats(lines) == ["Within every group all rewards were equal"]


def test_all_rewards_equal_over_a_batch(qwen):
    """A baseline of the whole batch has no spread either."""
    task = task_with(reward=lambda rows, texts: [1.0] * len(texts))
    lines, moved = trained(qwen, reinforce_pp(n=1, length=6, kl=0.0), task)
    assert moved == 0 and lines[0]["loss"] == 0
    assert whats(lines) == ["The signal was zero at every token"]


@pytest.mark.parametrize("make", [grpo, opsd])
def test_all_completions_truncated(qwen, make):
    qwen.model.generation_config.eos_token_id = 260
    lines, _ = trained(qwen, make(n=2, length=3), toy_task(8), steps=1)
    assert lines[0]["truncated"] == 1
    assert "Every completion was cut off before its end token" in whats(lines)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd", "tv"])
def test_the_teacher_is_the_student(qwen, divergence):
    method = opsd(length=6, teacher="policy", divergence=divergence, clip=None)
    lines, moved = trained(qwen, method, toy_task(8, told=False), steps=1)
    assert abs(lines[0]["loss"]) < 1e-9 and lines[0]["tv"] < 1e-9
    assert whats(lines) == ["The teacher said exactly what the student said"]
    assert moved <= 2 * RUN.lr, "of rounding Adam makes a step of at most the learning rate"


@pytest.mark.parametrize("make", GROUPED)
def test_a_group_of_one_is_refused(make):
    """There is no other row to compare with, and a formula with n - 1 divides by 0."""
    with pytest.raises(ValueError, match="n=1: a group needs at least 2 completions"):
        make(n=1, length=6)


@pytest.mark.parametrize("make", [grpo, sft])
def test_an_empty_response_and_every_token_masked(qwen, make):
    """Rows whose own tokens are none: the weights' denominators are then of nothing."""
    method = sft() if make is sft else grpo(n=2, length=6)
    training = Training(method, Models(qwen), toy_task(8), RUN)
    batch = training.ready()
    for rows in (slice(0, 1), slice(None)):
        own = batch.own.clone()
        own[rows] = False
        optimizer = torch.optim.SGD(training.parameters(), lr=1.0)
        before = [p.detach().clone() for p in training.parameters()]
        line = learn(method, training.models, replace(batch, own=own), optimizer, RUN)
        assert line["skipped"] == 0 and math.isfinite(line["loss"])
        assert all(not isinstance(v, float) or math.isfinite(v) for v in line.values())
        if rows == slice(None):
            assert line["loss"] == 0 and line["grad_norm"] == 0
            pairs = zip(before, training.parameters(), strict=True)
            assert all(torch.equal(one, two) for one, two in pairs)


def test_temperature_zero(qwen):
    """Greedy rows of a group are all alike: no spread of rewards. A teacher still has a say."""
    lines, moved = trained(qwen, grpo(n=2, length=6, temperature=0.0), toy_task(8))
    assert moved == 0 and lines[0]["loss"] == 0
    assert whats(lines) == ["Within every group all rewards were equal"]
    lines, moved = trained(qwen, opsd(n=2, length=6, temperature=0.0), toy_task(8))
    assert moved > 0 and whats(lines) == []
