"""seppo: the sample of a past policy loses, or wins where that policy knows the solution better."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.methods.seppo import seppo
from autodidact.methods.spin import spin
from autodidact.models import Models
from toys import about, random_logits, rows_of, toy_task

BETA = 0.3


@pytest.fixture
def pairs():
    """Two pairs; the policy knows the first solution better than the reference, the second less."""
    batch = rows_of([3, 2, 1, 4], side=[1.0, -1.0, 1.0, -1.0])
    batch = replace(batch, group=torch.tensor([0, 0, 1, 1]))
    policy, reference = random_logits(10, 3), random_logits(10, 3, seed=1).detach()
    words = torch.nn.functional.one_hot(batch.ids[batch.own], 3)
    lift = torch.zeros(10, 1, dtype=torch.float64)
    lift[:3], lift[5] = -4.0, 4.0
    return batch, policy, reference + lift * words


def gradient_and_value(method, batch, policy, reference):
    scores = {"policy": about(batch, policy), "reference": about(batch, reference)}
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, policy)[0], float(loss.detach())


def gaps_of(batch, policy, reference):
    return (about(batch, policy).logp - about(batch, reference).logp).sum(1)


def test_it_is_the_mean_over_pairs_of_the_formula_with_both_flips(pairs):
    batch, policy, reference = pairs
    gap = gaps_of(batch, policy, reference)
    assert gap[0] > 0 > gap[2]
    h = BETA * torch.stack([gap[0] - gap[1], gap[2] + gap[3]])
    expected = -torch.sigmoid(h).log().mean()
    found, value = gradient_and_value(seppo(BETA), batch, policy, reference)
    assert value == pytest.approx(float(expected.detach()), rel=1e-7)
    assert torch.allclose(found, torch.autograd.grad(expected, policy)[0], rtol=1e-6, atol=1e-9)


def test_where_the_policy_knows_all_solutions_better_it_is_spin(pairs):
    batch, policy, reference = pairs
    known = batch.select([0, 1])
    one, value = gradient_and_value(seppo(BETA), known, policy[:5], reference[:5])
    two, other = gradient_and_value(spin(BETA), known, policy[:5], reference[:5])
    assert value == pytest.approx(other, rel=1e-12)
    assert torch.allclose(one, two, rtol=1e-12)


def test_where_the_reference_knows_it_better_both_answers_attract(pairs):
    batch, policy, reference = pairs
    found, _ = gradient_and_value(seppo(BETA), batch.select([2, 3]), policy[5:], reference[5:])
    words = batch.ids[batch.own][5:]
    assert (found[range(5), words] < 0).all(), (
        "a step against the gradient makes each word likelier"
    )


def test_against_itself_a_sample_loses(pairs):
    """At the start no side knows better; then it is the first step of spin."""
    batch, policy, _ = pairs
    one, _ = gradient_and_value(seppo(BETA), batch, policy, policy.detach())
    two, _ = gradient_and_value(spin(BETA), batch, policy, policy.detach())
    assert torch.equal(one, two)


def test_the_past_of_a_step_is_what_drew_and_what_is_read(qwen):
    task, models = toy_task(3), Models(qwen)
    method = seppo(length=5, past="initial, copy:1")
    turns = set()
    for seed in range(8):
        batch = method.rollout(task.train, models, task, seed)
        (turn,) = set(batch.take("past").tolist())
        turns.add(turn)
        assert method.views(batch, models)["reference"].role == ("initial", "copy:1")[int(turn)]
    assert turns == {0.0, 1.0}
    assert set(models.lasting()) == {"copy:1"}, "it follows the policy from the start"
    before = [method.rollout(task.train, models, task, seed) for seed in range(8)]
    with torch.no_grad():
        models["copy:1"].model.lm_head.weight.neg_()
    for old, seed in zip(before, range(8), strict=True):
        new = method.rollout(task.train, models, task, seed)
        assert torch.equal(old.ids, new.ids) == (old.take("past")[0] == 0)


def test_a_past_is_needed():
    with pytest.raises(ValueError, match="roles"):
        seppo(past=" , ")
