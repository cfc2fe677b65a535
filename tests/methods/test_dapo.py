"""dapo: mean over tokens, the higher clip, and groups with spread only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.length import overlong
from autodidact.methods.dapo import dapo
from autodidact.methods.grpo import grpo
from autodidact.models import Models
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.train import Training
from toys import about, graded, random_logits, rows_of, toy_task


def value(method, batch, logits, old):
    batch = method.credit(batch.put(raw=old), None)
    return (method.loss({"policy": about(batch, logits)}, batch) * method.weigh(batch)).sum()


def test_it_is_a_mean_over_tokens():
    weight = dapo(n=3).weigh(rows_of([4, 1, 3]))
    assert weight[weight > 0].tolist() == pytest.approx([1 / 8] * 8)


def test_it_is_grpo_for_equal_lengths_and_equal_clips():
    batch, logits = rows_of([3, 3, 3], [1.0, 0.0, 0.5]), random_logits(9, 3)
    old = about(batch, random_logits(9, 3, seed=1)).logp.detach()
    same = dapo(n=3, clip=0.2, clip_high=0.2, waves=1)
    assert float(value(same, batch, logits, old).detach()) == pytest.approx(
        float(value(grpo(n=3), batch, logits, old).detach()), rel=1e-6
    )
    wide = dapo(n=3, clip=0.2, clip_high=5.0, waves=1)
    assert value(wide, batch, logits, old) != value(same, batch, logits, old)


def test_a_ratio_of_one_and_a_quarter_is_clipped_by_grpo_but_not_by_dapo():
    batch = rows_of([1, 1], [1.0, 0.0])
    logits = random_logits(2, 3)
    old = about(batch, logits).logp.detach() - torch.tensor(1.25).log()
    slopes = [
        float(torch.autograd.grad(value(method, batch, logits, old), logits)[0][0].abs().max())
        for method in (dapo(n=2), grpo(n=2))
    ]
    assert slopes[0] > 1e-2 and slopes[1] == 0


def test_only_groups_with_spread_are_kept_in_the_order_of_the_problems(qwen):
    task, models = toy_task(12), Models(qwen)
    kept = WithSpread(Sample(3, 3), waves=3)(task.train, models, task, 0)
    plain = Sample(3, 3)(task.train, Models(qwen), task, 0)
    differing = []
    for group, problem in enumerate(task.train):
        rows = (plain.group == group).nonzero().squeeze(1).tolist()
        texts = [qwen.decode(plain.ids[row][plain.own[row]].tolist()) for row in rows]
        if len(set(map(graded, texts))) > 1:
            differing.append(problem.question)
    assert 4 < len(differing) < 12, "the toy task should have groups of both kinds"
    assert list(dict.fromkeys(p.question for p in kept.rows)) == differing[:4]
    assert kept.group.view(4, 3).eq(kept.group.view(4, 3)[:, :1]).all()
    assert len(kept.group.unique()) == 4
    assert models.ledger.generated > int(kept.own.sum()), "what was dropped is paid for"


def test_it_stops_drawing_when_enough_groups_are_kept(qwen):
    task, models = toy_task(12), Models(qwen)
    wide = replace(task, reward=lambda problems, texts: [float(i % 2) for i in range(len(texts))])
    kept = WithSpread(Sample(2, 3), waves=3)(wide.train, models, wide, 0)
    assert len(kept) == 8 and models.ledger.verified == 8


def test_a_saturated_task_ends_the_step_with_nothing_to_learn(qwen):
    task = replace(toy_task(12), reward=lambda problems, texts: [1.0] * len(texts))
    models = Models(qwen)
    training = Training(dapo(n=2, length=3), models, task, Run(steps=1, rows=8))
    batch, line = training.advance()
    assert len(batch) == 0 and line["empty"] == 1
    assert models.ledger.verified == 3 * 8 and models.ledger.optimizer_steps == 0
    assert training.position == 12


def test_the_overlong_punishment_is_continuous_and_linear_between_its_knees():
    """(checked) min(0, ((L - C) - T) / C), -1 from L on: L = 20, C = 5."""
    lengths = [1, 14, 15, 16, 18, 19, 20, 21, 30]
    found = overlong(rows_of(lengths), 20, 5)
    assert found.tolist() == pytest.approx([0, 0, 0, -0.2, -0.6, -0.8, -1, -1, -1])
    near = [overlong(rows_of([10]), longest, 4.0) for longest in (14.001, 13.999, 10.001, 9.999)]
    assert [float(x[0]) for x in near] == pytest.approx([0, 0, -1, -1], abs=1e-3)


def test_long_answers_lose_before_rewards_are_compared():
    """And what is logged as the reward stays the task's."""
    batch = rows_of([10, 4, 9], [1.0, 0.0, 1.0])
    credited = dapo(n=3, length=10, overlong=0.5).credit(batch, None)
    plain = rows_of([10, 4, 9], [0.5, 0.0, 0.75])
    expected = dapo(n=3, length=10).credit(plain, None).take("advantage")
    assert torch.allclose(credited.take("advantage"), expected, rtol=1e-12)
    assert torch.equal(credited.take("reward"), batch.take("reward"))


def test_a_cushion_is_a_share():
    with pytest.raises(ValueError, match=r"cushion=4096"):
        dapo(cushion=4096)
