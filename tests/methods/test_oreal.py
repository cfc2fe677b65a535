"""oreal: what right and wrong answers count, what the token reward model says, when it is silent."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from autodidact.credits.value import TokenReward, belief
from autodidact.grade import grade
from autodidact.methods.oreal import oreal
from autodidact.models import Models
from autodidact.rollouts.contrast import Contrast
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.train import Training
from toys import random_logits, random_qwen, rows_of, toy_task

OPTIONS = {"n": 4, "length": 6, "frozen": 0}


@pytest.fixture
def case(qwen):
    models, task = Models(qwen), toy_task(6)
    batch = Contrast(4, 6)(task.train, models, task, 1)
    assert len(batch) >= 6
    return models, batch


def test_the_best_and_the_worst_are_kept_with_what_sets_them_apart_from_all(qwen):
    models, task = Models(qwen), toy_task(6)
    drawn = grade(Sample(5, 6)(task.train, models, task, 1), models)
    found = Contrast(5, 6)(task.train, models, task, 1)
    expected = []
    for group in range(6):
        rewards = drawn.take("reward")[drawn.group == group].tolist()
        apart = [r - (sum(rewards) - r) / 4 for r in rewards]
        mean = sum(rewards) / 5
        assert apart == pytest.approx([5 / 4 * (r - mean) for r in rewards]), "RLOO, both ways"
        assert sum(apart) == pytest.approx(0, abs=1e-9)
        if max(rewards) > min(rewards):
            for value in (max(rewards), min(rewards)):
                row = rewards.index(value)
                expected.append((group, drawn.ids[5 * group + row].tolist(), apart[row]))
    assert found.group.tolist() == [group for group, _, _ in expected]
    width = found.ids.shape[1]
    assert all(i == e[1][:width] for i, e in zip(found.ids.tolist(), expected, strict=True))
    assert found.take("apart").tolist() == pytest.approx([a for *_, a in expected], abs=1e-6)


def test_rows_without_a_reward_are_no_contrast(qwen):
    models = Models(qwen)
    task = replace(
        toy_task(3), reward=lambda problems, texts: [None, 1.0, 0.0, None, 1.0, 1.0, *[None] * 6]
    )
    found = Contrast(4, 4)(task.train, models, task, 1)
    assert found.group.tolist() == [0, 0] and found.take("apart").tolist() == [1.0, -1.0]


def gradient(batch, models, method):
    batch = method.credit(batch, models)
    scores = models.scores(method.views(batch, models), batch)
    logp = scores["policy"].logp
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    weights = list(models.policy.model.parameters())
    found = torch.autograd.grad(loss, weights, retain_graph=True)
    return batch, logp, torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(("weighted", "negative"), [(False, 1.0), (True, 0.5)])
def test_the_gradient_is_that_of_the_formula(case, weighted, negative):
    models, batch = case
    method = oreal(**OPTIONS, kl=0.0, weighted=weighted, negative=negative)
    batch, logp, found = gradient(batch, models, method)
    numbers, apart = batch.take("token_reward"), batch.take("apart").double()
    right, wrong = (batch.own & (sign * apart > 0)[:, None] for sign in (1, -1))
    c = belief(numbers, batch.own)
    up = ((c - 0.5) / 0.5).clamp(0, 1) if weighted else torch.ones_like(c)
    down = ((1 - c - 0.5) / 0.5).clamp(0, 1) if weighted else torch.ones_like(c)
    positive = (apart[:, None] * up * -logp)[right].sum() / right.sum()
    ratio = (logp - logp.detach()).exp()
    push = (ratio * apart[:, None] * down)[wrong].sum() / wrong.sum()
    expected = torch.autograd.grad(positive - negative * push, models.policy.model.parameters())
    expected = torch.cat([g.flatten() for g in expected])
    assert expected.norm() > 1e-3
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_the_belief_is_that_of_the_running_mean():
    numbers, batch = random_logits(2, 6, seed=3).detach(), rows_of([5, 3])
    found = belief(numbers, batch.own)
    for row in range(2):
        each = numbers[row][batch.own[row]].tolist()
        expected = [1 / (1 + math.exp(-sum(each[: t + 1]) / (t + 1))) for t in range(len(each))]
        assert found[row][batch.own[row]].tolist() == pytest.approx(expected, rel=1e-12)
    assert not found[~batch.own].any()


class Given(torch.nn.Module):
    """A model of tokens that says what it reads."""

    def forward(self, states):
        return states.squeeze(-1)


def test_the_token_reward_model_learns_the_mean_whatever_the_order():
    numbers, batch = random_logits(2, 6, seed=3).detach(), rows_of([5, 3], [1.0, 0.25])
    judge = TokenReward()
    found = judge.loss(Given(), batch.put(token_reward_states=numbers[..., None]))
    for row, goal in enumerate((1.0, 0.25)):
        p = 1 / (1 + math.exp(-float(numbers[row][batch.own[row]].mean())))
        expected = -goal * math.log(p) - (1 - goal) * math.log(1 - p)
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)
    turned = numbers.clone()
    turned[0, 1:6] = numbers[0, [3, 5, 1, 2, 4]]
    again = judge.loss(Given(), batch.put(token_reward_states=turned[..., None]))
    assert torch.allclose(found, again, rtol=1e-12)
    weight = judge.weigh(batch.put(reward=torch.tensor([1.0, math.nan])))
    assert weight.tolist() == [1.0, 0.0]


def test_a_model_that_says_nothing_freezes_every_token(case):
    models, batch = case
    method = oreal(**OPTIONS)
    with torch.no_grad():
        for weight in models.trained(method.auxiliaries[0]).network.parameters():
            weight.zero_()
    assert not method.credit(batch, models).take("advantage").any()


def test_without_it_the_advantages_of_each_side_sum_to_their_mean(case):
    """w = 1: each right token has A N / N_right, so that the weighed sum is a mean over tokens."""
    models, batch = case
    method = oreal(**OPTIONS, weighted=False, negative=1.0)
    batch = method.credit(batch, models)
    each = batch.take("advantage") * method.weigh(batch)
    apart = batch.take("apart")
    for sign in (1, -1):
        side = batch.own & (sign * apart > 0)[:, None]
        mean = (apart[:, None].expand(side.shape)[side]).mean()
        assert float(each[side].sum()) == pytest.approx(float(mean), rel=1e-6)


def test_the_policy_waits_until_the_reward_model_has_learned(tokenizer):
    models = Models(random_qwen(tokenizer))
    method = oreal(4, 6, frozen=2, kl=0.1, weighted=False, value_lr=1e-2)
    training = Training(method, models, toy_task(8), Run(steps=3, rows=16, lr=1e-2))
    weights = [[p.detach().clone() for p in models.policy.model.parameters()]]
    heads = []
    for _ in range(3):
        training.advance()
        weights.append([p.detach().clone() for p in models.policy.model.parameters()])
        heads.append(models.trained(method.auxiliaries[0]).network.layers[-1].weight.clone())
    same = [
        all(torch.equal(*pair) for pair in zip(one, two, strict=True))
        for one, two in pairwise(weights)
    ]
    assert same == [True, True, False]
    assert not torch.equal(heads[0], heads[1])


def test_one_answer_is_no_contrast():
    with pytest.raises(ValueError, match="n=1"):
        oreal(n=1)
