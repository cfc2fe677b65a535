"""rft: imitation of the verified samples, which is REINFORCE with 0/1 rewards and no baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.law import Law
from autodidact.learn import learn
from autodidact.methods.rft import rft
from autodidact.models import Models
from autodidact.rollouts.choose import BestOf
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.train import Training
from toys import graded, toy_task


def test_its_gradient_is_reinforce_with_rewards_of_0_or_1_and_no_baseline(qwen):
    task, models, seed = toy_task(4), Models(qwen), 2
    method = rft(n=5, length=4)
    drawn = Sample(5, 4)(task.train, models, task, seed)
    parameters = list(qwen.model.parameters())
    total, tokens, kept = 0.0, 0, set()
    for row in range(len(drawn)):
        ids, own = drawn.ids[row][drawn.real[row]], drawn.own[row][drawn.real[row]]
        text = qwen.decode(ids[own].tolist())
        key = (int(drawn.group[row]), tuple(ids[own].tolist()))
        if graded(text) < 1 or key in kept:
            continue
        kept.add(key)
        tokens += int(own.sum())
        law = qwen.model(ids[None]).logits[0].log_softmax(-1)
        total = total - law[:-1][own[1:], ids[own]].sum()
    assert 0 < len(kept) < len(drawn)
    expected = torch.autograd.grad(total / tokens, parameters)

    batch = method.rollout(task.train, models, task, seed)
    before = [p.detach().clone() for p in parameters]
    learn(method, models, batch, torch.optim.SGD(parameters, lr=1.0), Run(rows=20, grad_clip=0))
    for old, new, gradient in zip(before, parameters, expected, strict=True):
        assert torch.allclose(old - new, gradient, rtol=1e-5, atol=1e-9)


def test_equal_answers_count_once_and_the_earlier_stays(qwen):
    """One-token answers of a sharp law repeat themselves."""
    task, models = toy_task(1), Models(qwen)
    task = replace(task, reward=lambda problems, texts: [1.0] * len(texts))
    sharp = Law(0.2)
    drawn = Sample(12, 1, sharp)(task.train, models, task, 0)
    words = drawn.ids[drawn.own].tolist()
    distinct = list(dict.fromkeys(words))
    assert 1 < len(distinct) < len(words)
    for keep in (len(words), 1):
        kept = BestOf(12, 1, keep, law=sharp)(task.train, models, task, 0)
        assert kept.ids[kept.own].tolist() == distinct[:keep]


def test_the_best_come_first_and_what_earns_too_little_never(qwen):
    task, models = toy_task(6), Models(qwen)
    for least in (0.5, 1.0):
        best = BestOf(4, 3, 1, least)(task.train, models, task, 0)
        everything = Sample(4, 3)(task.train, models, task, 0)
        rewards = torch.tensor(
            [
                graded(qwen.decode(i[o].tolist()))
                for i, o in zip(everything.ids, everything.own, strict=True)
            ]
        ).view(6, 4)
        reach = rewards.max(1).values
        assert best.take("reward").tolist() == reach[reach >= least].tolist()


def test_a_step_without_a_verified_sample_changes_nothing(qwen):
    task, models = toy_task(4), Models(qwen)
    task = replace(task, reward=lambda problems, texts: [None, *[0.0] * (len(texts) - 1)])
    training = Training(rft(n=2, length=3), models, task, Run(steps=1, rows=8))
    before = [p.detach().clone() for p in qwen.model.parameters()]
    batch, line = training.advance()
    assert len(batch) == 0 and line["empty"] == 1 and models.ledger.optimizer_steps == 0
    assert models.ledger.generated > 0
    assert all(torch.equal(a, b) for a, b in zip(before, qwen.model.parameters(), strict=True))


@pytest.mark.parametrize("keep", [0, 9])
def test_keep_is_from_1_to_n(keep):
    with pytest.raises(ValueError, match=f"keep={keep} of n=8"):
        rft(n=8, keep=keep)
