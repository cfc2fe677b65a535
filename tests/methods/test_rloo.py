"""rloo: the mean of the others as baseline; its expectation is the true gradient."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from autodidact.learn import learn
from autodidact.methods.dr_grpo import dr_grpo
from autodidact.methods.rloo import rloo
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain
from toys import about, perturb, random_logits, rows_of, toy_task

REWARDS = [1.0, 0.0, 0.25, 0.5]


def advantages(method, rewards):
    return method.credit(rows_of([2] * len(rewards), rewards), None).take("advantage")[:, 1]


def test_advantages_leave_the_answer_itself_out():
    """(checked) A_i = R_i - mean of the others = n/(n-1) (R_i - mean)."""
    others = [r - (sum(REWARDS) - r) / 3 for r in REWARDS]
    found = advantages(rloo(n=4), REWARDS)
    assert found.tolist() == pytest.approx(others, rel=1e-12)
    plainly = advantages(dr_grpo(n=4), REWARDS)
    assert torch.allclose(found, 4 / 3 * plainly, rtol=1e-12)


def test_rows_without_a_reward_are_no_baseline_and_a_row_left_alone_teaches_nothing():
    found = advantages(rloo(n=4), [1.0, math.nan, 0.0, 0.25])
    assert found.tolist() == pytest.approx([0.875, 0, -0.625, -0.25])
    assert not advantages(rloo(n=3), [1.0, math.nan, math.nan]).any()


def gradient(method, batch, logits):
    scores = about(batch, logits)
    batch = method.credit(batch.put(raw=scores.logp.detach()), None)
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, logits)[0]


def test_its_expectation_is_the_true_gradient():
    """(checked) Every pair of one-token answers over three words, weighed by its probability."""
    law, worth = random_logits(3, seed=4), torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64)
    truth = torch.autograd.grad((law.softmax(-1) * worth).sum(), law)[0]
    mean = torch.zeros(3, dtype=torch.float64)
    for pair in product(range(3), repeat=2):
        batch = rows_of([1, 1], [float(worth[word]) for word in pair])
        batch.ids[:, 1] = torch.tensor(pair)
        chance = law.softmax(-1)[list(pair)].prod().detach()
        logits = law.detach().repeat(2, 1).requires_grad_()
        mean -= chance * gradient(rloo(n=2), batch, logits).sum(0)
    # float32 weights
    assert torch.allclose(mean, truth, rtol=1e-6, atol=1e-8)


def test_tokens_of_a_row_are_summed_and_rows_averaged():
    assert rloo(n=3).weigh(rows_of([4, 1, 3])).sum(1).tolist() == pytest.approx([4 / 3, 1 / 3, 1])


def test_the_penalty_is_the_log_ratio_of_whole_answers_in_the_reward(qwen):
    """L at R_i - kl sum_t log p/r, by hand."""
    task, models = toy_task(4), Models(qwen)
    method = rloo(n=3, length=5, kl=0.3)
    batch = method.rollout(task.train, models, task, 0)
    assert set(method.views(batch, models)) == {"policy"} and method.roles == ("initial",)
    assert models["initial"]
    perturb(models.policy)
    moved = method.rollout(task.train, models, task, 1)
    reward = torch.linspace(0, 1, len(batch), dtype=torch.float64)
    with torch.no_grad():
        found = method.credit(moved.put(reward=reward), models).take("advantage")
        gap = moved.take("raw") - models.score(plain(moved, "initial"), moved).logp
        total = reward - 0.3 * (gap * moved.own).sum(1)
    assert gap.abs().max() > 1e-3
    expected = 3 / 2 * (total.view(-1, 3) - total.view(-1, 3).mean(1, keepdim=True)).flatten()
    assert torch.allclose(found, expected[:, None] * moved.own, rtol=1e-6, atol=1e-7)


def test_a_run_that_is_taken_up_again_still_has_its_reference(qwen):
    """The reference is made before the first update, although only the credit reads it."""
    task, models = toy_task(8), Models(qwen)
    method = rloo(n=2, length=4, kl=0.1)
    training = Training(method, models, task, Run(steps=2, rows=8, lr=1e-3))
    method.views(method.rollout(task.train, models, task, 0), models)
    models.ledger.optimizer_steps = 1
    _, line = training.advance()
    assert not line["skipped"] and models["initial"] is not models.policy


def test_one_update_moves_along_the_advantages(qwen):
    task, models = toy_task(4), Models(qwen)
    batch = rloo(n=2, length=3).rollout(task.train, models, task, 0)
    batch = batch.put(reward=torch.arange(len(batch)).double())
    before = float((models.score(plain(batch), batch).logp.sum(1)[1::2]).sum().detach())
    tuned = torch.optim.SGD(qwen.model.parameters(), lr=1e-2)
    learn(rloo(n=2, length=3), models, batch, tuned, Run(rows=8))
    after = float((models.score(plain(batch), batch).logp.sum(1)[1::2]).sum().detach())
    assert after > before


def test_one_answer_is_no_group():
    with pytest.raises(ValueError, match="n=1"):
        rloo(n=1)
