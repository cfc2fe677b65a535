"""The loop: the order of problems, the schedule, gradient clipping, budgets and bad updates."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.guards import Diverged
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.methods.sft import sft
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training, fit, problems_at
from toys import random_qwen, toy_task


def test_problems_come_in_one_order_whatever_the_steps(monkeypatch):
    problems = toy_task(7).train
    walked = problems_at(problems, 0, 21, seed=3)
    for turn in range(3):
        assert sorted(p.question for p in walked[7 * turn : 7 * turn + 7]) == sorted(
            p.question for p in problems
        ), "every pass takes each problem once"
    assert walked[:7] != walked[7:14] and walked[:7] != problems_at(problems, 0, 7, seed=4)
    for size in (1, 4, 10):
        pieces = [problems_at(problems, at, size, 3) for at in range(0, 21 - size + 1, size)]
        joined = [p for piece in pieces for p in piece]
        assert joined == walked[: len(joined)]


def test_the_learning_rate_warms_up_and_falls_to_zero(qwen):
    run = Run(steps=10, lr=2.0, warmup=4, schedule="cosine", rows=4)
    training = Training(sft(), Models(qwen), toy_task(), run)
    rates = []
    for step in range(11):
        training.step = step
        rates.append(training.rate())
    expected = [2.0 * min(1, (s + 1) / 4) * (1 + math.cos(math.pi * s / 10)) / 2 for s in range(11)]
    assert rates == pytest.approx(expected) and rates[10] == pytest.approx(0)
    flat = Training(sft(), Models(qwen), toy_task(), Run(steps=10, lr=2.0, rows=4))
    assert flat.rate() == 2.0


def test_a_step_is_adamw_of_the_clipped_gradient(tokenizer):
    """The first step of AdamW, by hand: w (1 - lr decay) - lr g / (|g| + eps), g clipped."""
    task, clip, lr = toy_task(), 1e-7, 1e-2
    one, two = Models(random_qwen(tokenizer)), Models(random_qwen(tokenizer))
    kept = {}

    class Tap(torch.optim.SGD):
        def step(self, closure=None):
            kept["g"] = [p.grad.clone() for p in self.param_groups[0]["params"]]

    from autodidact.learn import learn

    batch = sft().rollout(problems_at(task.train, 0, 4, 0), one, task, 0)
    tap = Tap(one.policy.model.parameters(), lr=1.0)
    measured = learn(sft(), one, batch, tap, Run(steps=1, rows=4, grad_clip=clip))
    norm = math.sqrt(sum(float((g**2).sum()) for g in kept["g"]))
    assert norm == pytest.approx(clip, rel=1e-3) and measured["grad_norm"] > 1
    run = Run(steps=1, rows=4, lr=lr, weight_decay=0.1, grad_clip=clip)
    Training(sft(), two, task, run).advance()
    for before, after, g in zip(
        one.policy.model.parameters(), two.policy.model.parameters(), kept["g"], strict=True
    ):
        expected = before * (1 - lr * 0.1) - lr * g / (g.abs() + 1e-8)
        assert torch.allclose(after, expected, rtol=1e-9, atol=1e-12)


def test_a_budget_ends_the_run_as_soon_as_it_is_spent(qwen):
    run = Run(budget=40, column="generated", rows=4, lr=1e-4, eval_points=2)
    training = Training(opsd(length=4), Models(qwen), toy_task(), run)
    spent, points = [], []
    fit(training, lambda batch, line: spent.append(line["ledger"]["generated"]), points.append)
    assert spent[-2] < 40 <= spent[-1]
    assert points == [0.0, 0.5, 1.0]


def test_a_budget_that_can_never_be_spent_is_refused_before_the_run(qwen):
    with pytest.raises(ValueError, match="'sft' draws nothing, so a budget of 'generated'"):
        Training(sft(), Models(qwen), toy_task(), Run(budget=40, rows=4))
    Training(sft(), Models(qwen), toy_task(), Run(budget=40, rows=4, column="student_backward"))


def test_updates_that_are_not_finite_are_skipped_and_then_stop_the_run(qwen):
    method = opsd(length=4)
    broken = replace(method, loss=lambda scores, batch: method.loss(scores, batch) * torch.nan)
    training = Training(broken, Models(qwen), toy_task(), Run(steps=9, rows=4, max_skips=2))
    lines = []
    with pytest.raises(Diverged, match="2 updates in a row"):
        fit(training, lambda batch, line: lines.append(line), lambda fraction: None)
    assert [line["skipped"] for line in lines] == [1, 1]
    assert training.models.ledger.optimizer_steps == 0


def test_later_epochs_leave_the_ratio_of_one(qwen):
    """With one epoch the ratio is one and nothing is clipped; a second epoch moves on."""
    results = []
    for epochs in (1, 2):
        lm = random_qwen(qwen.tokenizer)
        method = grpo(n=2, length=4, epochs=epochs)
        Training(method, Models(lm), toy_task(8), Run(steps=1, rows=16, lr=1e-2)).advance()
        results.append(torch.cat([p.detach().flatten() for p in lm.model.parameters()]))
    start = torch.cat([p.detach().flatten() for p in qwen.model.parameters()])
    one, two = ((result - start).abs().max() for result in results)
    assert float(one) == pytest.approx(1e-2, rel=1e-3) and float(two) > 1.2e-2


def test_the_gaps_between_sampler_and_trainer_are_measured(qwen):
    training = Training(opsd(length=4), Models(qwen), toy_task(), Run(steps=1, rows=4))
    _, line = training.advance()
    assert line["mismatch_mean"] <= line["mismatch_max"] < 1e-5
    assert line["ess"] == pytest.approx(1.0, abs=1e-9)
    assert line["entropy"] > 0 and 0 < line["tv"] < 1
