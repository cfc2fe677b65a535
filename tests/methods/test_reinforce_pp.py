"""reinforce_pp: returns with the log-ratio in them, whitened over all tokens of the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.methods.grpo import grpo
from autodidact.methods.reinforce_pp import reinforce_pp
from autodidact.models import Models
from autodidact.view import plain
from toys import about, perturb, random_logits, rows_of, toy_task

LENGTHS, REWARDS = [4, 1, 3, 2], [1.0, 0.0, 0.25, 0.5]


def credited(method, rewards=REWARDS, groups=None, **streams):
    batch = rows_of(LENGTHS, rewards, **streams)
    batch = replace(batch, group=torch.tensor(groups)) if groups else batch
    return method.credit(batch, None)


@pytest.mark.parametrize("baseline", [False, True])
def test_tokens_have_mean_0_and_variance_1(baseline):
    """(checked) Weighed by tokens, so that long answers count more."""
    method = reinforce_pp(n=4, kl=0.0, baseline=baseline)
    batch = credited(method, groups=[0, 0, 1, 1])
    values = batch.take("advantage")[batch.own]
    assert float(values.mean()) == pytest.approx(0, abs=1e-9)
    assert float(values.var(correction=0)) == pytest.approx(1, rel=1e-6)


def test_without_a_baseline_groups_do_not_matter_and_one_answer_each_is_enough():
    alone, grouped = (credited(reinforce_pp(kl=0.0), groups=g) for g in ([0, 1, 2, 3], [0] * 4))
    assert torch.equal(alone.take("advantage"), grouped.take("advantage"))
    assert alone.take("advantage").abs().max() > 0.5


def test_with_a_baseline_it_is_the_centred_reward_of_every_token_whitened():
    """(checked) Returns first or tiled first is the same at kl=0, gamma=1."""
    batch = credited(reinforce_pp(n=2, kl=0.0, baseline=True), groups=[0, 0, 1, 1])
    tiled = torch.tensor([0.5, -0.5, -0.125, 0.125], dtype=torch.float64)
    tiled = tiled.repeat_interleave(torch.tensor(LENGTHS))
    expected = (tiled - tiled.mean()) / tiled.std(correction=0)
    assert torch.allclose(batch.take("advantage")[batch.own], expected, rtol=1e-6)


def test_rows_without_a_reward_neither_count_nor_learn():
    batch = credited(reinforce_pp(kl=0.0), [1.0, math.nan, 0.0, 0.5])
    found = batch.take("advantage")
    assert not found[1].any()
    others = torch.tensor([1.0] * 4 + [0.0] * 3 + [0.5] * 2, dtype=torch.float64)
    expected = (others - others.mean()) / others.std(correction=0)
    own = batch.own.clone()
    own[1] = False
    assert torch.allclose(found[own], expected, rtol=1e-6)


def test_a_discount_counts_tokens_to_the_end():
    batch = credited(reinforce_pp(kl=0.0, gamma=0.5))
    returns = torch.tensor(
        [0.125, 0.25, 0.5, 1.0, 0.0, 0.0625, 0.125, 0.25, 0.25, 0.5], dtype=torch.float64
    )
    expected = (returns - returns.mean()) / returns.std(correction=0)
    assert torch.allclose(batch.take("advantage")[batch.own], expected, rtol=1e-6)


def test_the_log_ratio_of_later_tokens_is_part_of_the_return(qwen):
    """G_t = R - kl sum_{s>=t} log p/r, then whitened."""
    task, models = toy_task(4), Models(qwen)
    method = reinforce_pp(n=2, length=5, kl=0.3)
    first = method.rollout(task.train, models, task, 0)
    assert set(method.views(first, models)) == {"policy"} and method.roles == ("initial",)
    assert models["initial"]
    perturb(models.policy)
    batch = method.rollout(task.train, models, task, 1)
    reward = torch.linspace(0, 1, len(batch), dtype=torch.float64)
    with torch.no_grad():
        found = method.credit(batch.put(reward=reward), models).take("advantage")
        gap = batch.take("raw") - models.score(plain(batch, "initial"), batch).logp
    gap = (gap * batch.own).double()
    later = gap.flip(1).cumsum(1).flip(1)
    returns = (reward[:, None] - 0.3 * later)[batch.own]
    expected = (returns - returns.mean()) / (returns.var(correction=0) + 1e-8).sqrt()
    assert gap.abs().max() > 1e-3
    assert torch.allclose(found[batch.own].double(), expected, rtol=1e-6, atol=1e-7)


def test_with_a_baseline_the_penalty_is_a_term_of_the_loss():
    batch = rows_of(LENGTHS, REWARDS)
    scores = {
        "policy": about(batch, random_logits(10, 3)),
        "reference": about(batch, random_logits(10, 3, seed=1)),
    }
    batch = batch.put(raw=scores["policy"].logp.detach())
    one, none = (reinforce_pp(n=4, kl=kl, baseline=True) for kl in (0.3, 0.0))
    credit = one.credit(batch, None)
    assert torch.equal(credit.take("advantage"), none.credit(batch, None).take("advantage"))
    extra = one.loss(scores, credit) - none.loss(scores, credit)
    k2 = (scores["policy"].logp - scores["reference"].logp) ** 2 / 2
    assert torch.allclose(extra, 0.3 * k2, atol=1e-12)


def test_for_one_group_of_equal_lengths_both_forms_are_grpo_with_the_other_std():
    logits, old = random_logits(9, 3), random_logits(9, 3, seed=1)
    found = []
    for method, factor in (
        (reinforce_pp(n=3, kl=0.0), math.sqrt(2 / 3)),
        (reinforce_pp(n=3, kl=0.0, baseline=True), math.sqrt(2 / 3)),
        (grpo(n=3, eps=0.0), 1.0),
    ):
        batch = rows_of([3, 3, 3], [1.0, 0.0, 0.25])
        batch = method.credit(batch.put(raw=about(batch, old).logp.detach()), None)
        values = method.loss({"policy": about(batch, logits)}, batch)
        loss = (values * method.weigh(batch)).sum() * factor
        found.append(torch.autograd.grad(loss, logits)[0])
    # 1e-8 under the root, float32 weights
    assert torch.allclose(found[0], found[2], rtol=1e-6, atol=1e-9)
    assert torch.allclose(found[1], found[2], rtol=1e-6, atol=1e-9)


def test_a_baseline_needs_a_group():
    with pytest.raises(ValueError, match="n=1"):
        reinforce_pp(baseline=True)
