"""trace_rl: every token is read where it was written, and nothing else differs from grpo."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.grade import grade
from autodidact.methods.diffu_grpo import diffu_grpo
from autodidact.methods.grpo import grpo
from autodidact.methods.trace_rl import trace_rl
from autodidact.models import Models
from toys import perturb, random_masked, toy_task


@pytest.fixture
def drawn(tokenizer):
    models, task = Models(random_masked(tokenizer)), toy_task(8)
    method = trace_rl(n=4, length=6, steps=None, block=None, shrink=1, kl=0.0, temperature=1.0)
    batch = grade(method.rollout(task.train, models, task, 3), models)
    return models, batch, method


def test_with_one_token_a_step_it_reads_what_the_sampler_said(drawn):
    """The law of the trace is the law that drew, and the ratio of a policy to itself is 1."""
    models, batch, method = drawn
    credited = method.credit(batch, models)
    assert torch.allclose(
        credited.take("before")[batch.own].float(), batch.take("raw")[batch.own], atol=1e-5
    )
    scores = models.scores(method.views(credited, models), credited)
    value = method.loss(scores, credited)
    advantage = credited.take("advantage")[batch.own].to(value.dtype)
    assert torch.allclose(value[batch.own], -advantage, atol=1e-12)
    expected = grpo(n=4).credit(batch, models).take("advantage")
    assert torch.equal(credited.take("advantage"), expected)


def test_a_shrink_over_all_steps_hides_everything_as_diffu_grpo_does(drawn):
    models, batch, _ = drawn
    perturb(models.policy)
    one = trace_rl(n=4, length=6, shrink=99, scale="none", clip=0.5, kl=0.0)
    other = diffu_grpo(n=4, length=6, prompt=0.0, kl=0.0)
    for method in (one, other):
        credited = method.credit(batch, models)
        found = method.loss(models.scores(method.views(credited, models), credited), credited)
        if method is one:
            expected = found
    assert torch.allclose(found, expected, atol=1e-12)


def test_a_row_is_read_once_for_each_of_its_steps(drawn):
    models, batch, method = drawn
    view = method.views(batch, models)["policy"]
    steps = torch.where(batch.own, batch.take("order"), 0)
    assert len(view.ids) == sum(len(row[row > 0].unique()) for row in steps)
    canvas = batch.take("canvas") == 1
    for row in range(len(batch)):
        first = int(view.at[row][batch.own[row]].min()) // view.ids.shape[1]
        holes = (view.ids[first] == models.policy.mask) & view.real[first]
        assert 1 <= int(holes.sum()) <= int(canvas[row].sum())


def test_one_answer_is_no_group():
    with pytest.raises(ValueError, match="n=1"):
        trace_rl(n=1)
    assert replace(trace_rl(), epochs=2).masked
