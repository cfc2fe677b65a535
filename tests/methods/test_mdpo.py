"""MDPO: predictions at every step, their rewards, and which steps are learned from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.group import group_advantage
from autodidact.credits.guesses import guessed, step_advantage, step_values, widest_steps
from autodidact.credits.visited import visited
from autodidact.grade import grade
from autodidact.learn import credited, gradients
from autodidact.methods.mdpo import mdpo
from autodidact.models import Models
from autodidact.view import noised
from toys import perturb, random_masked, rows_of, toy_task

SMALL = {"n": 4, "length": 6, "steps": 3, "block": None, "kept": 2}


@pytest.fixture
def models(tokenizer):
    return Models(random_masked(tokenizer))


def drawn(models, **options):
    task = toy_task(4)
    batch = mdpo(**{**SMALL, **options}).rollout(task.train, models, task, 3)
    return grade(batch, models)


def steps_of(rewards, group=None):
    """Canvases of traces whose predictions earned these rewards, step by step."""
    count = sum(map(len, rewards))
    batch = rows_of([1] * count, [r for each in rewards for r in each])
    trace = torch.tensor([i for i, each in enumerate(rewards) for _ in each])
    step = torch.tensor([s for each in rewards for s in range(1, len(each) + 1)])
    groups = torch.tensor(group or [0] * len(rewards))[trace]
    return replace(batch, group=groups).put(trace=trace, step=step)


def test_raw_advantages_are_the_change_and_the_mean_of_what_follows():
    found = step_values(steps_of([[0.5, 0.0, 1.0, 0.25]]))
    expected = [0.5 + 1.25 / 3, -0.5 + 1.25 / 2, 1.0 + 0.25, 0.25]
    assert found.tolist() == pytest.approx(expected)
    batch = steps_of([[0.5, 0.0, 1.0], [1.0, 0.25]]).select([3, 1, 0, 4, 2])
    later = [1.25, -0.5 + 1.0, 0.5 + 0.5, 0.25, 1.0]
    assert step_values(batch).tolist() == pytest.approx(later)


def test_the_first_reward_and_the_changes_add_up_to_the_last():
    rewards = [0.25, 1.0, 0.5, 0.75]
    batch = steps_of([rewards])
    left = torch.tensor([3, 2, 1])
    later = (sum(rewards) - torch.tensor(rewards).cumsum(0))[:3] / left
    changes = step_values(batch)[:3] - later
    assert float(changes.sum()) == pytest.approx(rewards[2])
    assert float(changes.sum() + (rewards[3] - rewards[2])) == pytest.approx(rewards[-1])


def test_steps_are_compared_with_the_same_step_of_the_group():
    rewards = [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 1.0]]
    batch = steps_of(rewards, [0, 0, 1, 1])
    raw = step_values(batch).view(4, 3)
    found = step_advantage(batch).take("advantage").sum(1).view(4, 3)
    for rows in ([0, 1], [2, 3]):
        for step in range(3):
            x = raw[rows, step]
            expected = (x - x.mean()) / (x.std() + 1e-4)
            assert torch.allclose(found[rows, step], expected)
    # The last step knows the final reward only.
    assert found[:, 2].sign().tolist() == [1, -1, -1, 1]


def test_a_prediction_without_a_reward_leaves_its_trace_out():
    found = step_advantage(steps_of([[0.0, float("nan"), 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    assert found.take("advantage").isfinite().all()
    assert float(found.take("advantage")[:2].abs().max()) == 0


def test_the_steps_with_the_largest_advantages_are_kept():
    batch = steps_of([[0.0] * 4] * 3, [0, 0, 1]).put(
        advantage=torch.tensor([1.0, 0.0, 3, 1, -1, 0, -3, 1, 0, 2, 0, 0])[:, None] * torch.ones(2)
    )
    found = widest_steps(batch, 2)
    pairs = list(zip(found.take("trace").tolist(), found.take("step").tolist(), strict=True))
    assert pairs == [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2)], "the earlier of equal ones"
    assert len(widest_steps(batch, 9)) == 12


def test_predictions_are_the_written_tokens_and_the_likeliest_words(models):
    batch = drawn(models)
    found = guessed(batch, models)
    last = found.take("step") == 3
    ids = visited(batch).ids
    assert torch.equal(found.ids[last], ids[last]), "the last one is the completion"
    assert torch.equal(found.take("reward")[last], batch.take("reward"))
    order, step = found.take("order"), found.take("step")[:, None]
    written = order <= step
    assert torch.equal(found.ids[written], ids[written])
    lm = models.policy
    for row in (0, 4):
        fed = torch.where(found.take("still")[row] == 1, lm.mask, ids[row])[None]
        logits = lm.model(fed, attention_mask=found.real[row][None].long()).logits[0]
        law = logits.log_softmax(-1).exp()
        hidden = (order > step)[row]
        assert torch.equal(found.ids[row][hidden], logits[:, 1:].argmax(-1)[hidden] + 1)
        own = found.own[row]
        sure = law.gather(-1, found.ids[row][:, None]).squeeze(-1)
        assert torch.allclose(found.take("confidence")[row][own], sure[own], atol=1e-6)
    assert torch.equal(found.own, found.take("still") == 1)


def test_the_loss_is_the_mean_over_hidden_places_weighed_by_confidence(models):
    method = mdpo(**SMALL, kl=0.0)
    batch = drawn(models)
    found = gradients(method, models, batch).policy
    with torch.no_grad():
        steps = credited(method, models, batch)
    view = noised(steps, models, steps.take("still") == 1)
    logp = models.score(view, steps).logp
    each = (steps.take("advantage") * steps.take("confidence") * logp).sum(1) / steps.own.sum(1)
    weights = [w for w in models.policy.model.parameters() if w.requires_grad]
    expected = torch.autograd.grad(-each.mean(), weights, allow_unused=True)
    for a, b in zip(found, [e for e in expected if e is not None], strict=True):
        assert torch.allclose(a, b, atol=1e-8)
    assert max(float(g.abs().max()) for g in found) > 1e-4


def test_one_step_is_a_group_baseline_on_the_one_step_law(models):
    batch = drawn(models, steps=1)
    with torch.no_grad():
        steps = credited(mdpo(**{**SMALL, "steps": 1}), models, batch)
    expected = group_advantage(batch).take("advantage").amax(1)
    least = group_advantage(batch).take("advantage").amin(1)
    assert len(steps) == len(batch) and torch.equal(steps.ids, batch.ids)
    found = steps.take("advantage")[steps.own].view(len(batch), -1)[:, 0]
    assert torch.allclose(found, expected + least)


def test_the_penalty_is_half_the_squared_log_ratio_to_the_first_weights(models):
    assert models["initial"]
    batch = drawn(models)
    perturb(models.policy)
    with torch.no_grad():
        steps = credited(mdpo(**SMALL), models, batch)
    values = []
    for kl in (0.0, 1.0):
        method = mdpo(**SMALL, kl=kl)
        scores = models.scores(method.views(steps, models), steps)
        values.append(method.loss(scores, steps))
    gap = scores["policy"].logp - scores["reference"].logp
    assert torch.allclose(values[1] - values[0], gap**2 / 2)


def test_bad_options_are_refused():
    for options, said in (
        ({"n": 1}, "at least 2"),
        ({"kept": 0}, "kept=0"),
        ({"kl_kind": "k1"}, "k2"),
    ):
        with pytest.raises(ValueError, match=said):
            mdpo(**options)
