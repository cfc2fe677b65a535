"""Speed: what fewer steps are worth, and the chance with which places are opened together."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from autodidact.credits.opening import choices, faster, with_sureness
from autodidact.credits.unmasking import Threshold, opened_at_once
from autodidact.engine import Request
from autodidact.engines.unmask import Adaptive
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.learn import credited, gradients
from autodidact.methods.speed_rl import speed_rl
from autodidact.models import Models
from toys import random_logits, random_masked, rows_of, toy_task

SMALL = {"n": 4, "length": 6}


@pytest.fixture
def models(tokenizer):
    return Models(random_masked(tokenizer))


def drawn(models, **options):
    task = toy_task(4)
    batch = speed_rl(**{**SMALL, **options}).rollout(task.train, models, task, 3)
    return grade(batch, models)


def orders(*rows, rewards):
    batch = rows_of([len(each) for each in rows], rewards)
    flat = torch.tensor([float(step) for each in rows for step in each])
    order = torch.zeros(batch.own.shape).masked_scatter(batch.own, flat)
    return batch.put(order=order, canvas=batch.own.float())


def test_speed_multiplies_and_so_pays_nothing_for_a_wrong_answer():
    batch = orders([1, 1, 1, 1], [1, 2, 3, 4], [2, 1, 2, 0], [1, 1, 1, 1], rewards=[1, 1, 1, 0.0])
    for alpha in (10, 3, 1, 0.3):
        found = faster(batch, alpha).take("reward").tolist()
        assert found == pytest.approx([0.75**alpha, 0, (1 / 3) ** alpha, 0])
    assert torch.equal(faster(batch, 0.0).take("reward"), batch.take("reward"))
    assert torch.equal(faster(batch, 2.0).take("quality"), batch.take("reward"))
    added = batch.take("reward") + torch.tensor([0.75, 0, 1 / 3, 0.75])
    assert added[3] > 0, "a bonus that is added pays for it"


def test_sets_of_places_add_up_to_one():
    odds = random_logits(1, 4, size=2.0).detach()
    for open in ([True] * 4, [True, False, True, False]):
        able = torch.tensor([open])
        total = 0.0
        for chosen in product([False, True], repeat=4):
            taken = torch.tensor([chosen]) & able
            if taken.any() and taken.tolist() == [list(chosen)]:
                total += float(opened_at_once(odds, able, taken).exp())
        assert total == pytest.approx(1.0, abs=1e-12)


def test_the_likeliest_place_alone_is_also_what_is_left_of_none():
    odds = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    p, able = odds.sigmoid()[0], torch.ones(1, 3, dtype=torch.bool)
    best = opened_at_once(odds, able, torch.tensor([[False, False, True]]))
    assert float(best.exp()) == pytest.approx(float((1 - p[0]) * (1 - p[1])))
    other = opened_at_once(odds, able, torch.tensor([[True, False, False]]))
    assert float(other.exp()) == pytest.approx(float(p[0] * (1 - p[1]) * (1 - p[2])))


def test_the_engine_opens_places_with_their_chances(models):
    """How often each set is opened first, of the canvases of one prompt."""
    lm, head = models.policy, Threshold().double()
    requests = [Request((5, 6), k, 3) for k in range(4000)]
    drawn = Adaptive(network=head).draw(lm, requests, Law(), 1)
    counts: dict[tuple[bool, ...], int] = {}
    for each in drawn.completions:
        first = tuple(step == 1 for step in each.order)
        counts[first] = counts.get(first, 0) + 1
        assert sorted(set(each.order)) == list(range(1, max(each.order) + 1))
    assert drawn.calls == sum(max(each.order) for each in drawn.completions)
    fed = torch.tensor([[5, 6, lm.mask, lm.mask, lm.mask]])
    sure = lm.model(fed).logits[:, 2:].softmax(-1).amax(-1)
    able = torch.ones(1, 3, dtype=torch.bool)
    odds = head(sure, able, able)
    for chosen in product([False, True], repeat=3):
        if any(chosen):
            expected = float(opened_at_once(odds, able, torch.tensor([chosen])).exp().detach())
            assert counts.get(chosen, 0) / 4000 == pytest.approx(expected, abs=0.03)


def test_a_head_that_opens_nothing_opens_one_place_at_a_time_and_all_opens_all(models):
    head = Threshold().double()
    with torch.no_grad():
        head.last.weight.zero_()
        for bias, calls in ((-50.0, 6), (50.0, 1)):
            head.last.bias.fill_(bias)
            found = Adaptive(network=head).draw(models.policy, [Request((5,), 0, 6)], Law(), 1)
            assert found.calls == calls == max(found.completions[0].order)


def test_only_the_small_policy_learns(models):
    found = gradients(speed_rl(**SMALL), models, drawn(models))
    assert not found.policy
    assert max(float(g.abs().max()) for g in found.auxiliaries) > 1e-4


def test_the_loss_is_the_chance_of_what_was_opened(models):
    method, batch = speed_rl(**SMALL, alpha=0.5), drawn(models)
    with torch.no_grad():
        steps = credited(method, models, batch)
    each = method.auxiliaries[0]
    head = models.trained(each).network
    values = each.loss(head, steps)
    row = int((steps.take("worth").abs() * steps.take("choice")).argmax())
    canvas = steps.take("canvas")[row] == 1
    still = (steps.take("still")[row] == 1)[canvas]
    sure = steps.take("sure")[row][canvas]
    odds = head(sure[None], torch.ones_like(still)[None], still[None])[0]
    now = (steps.take("order")[row] == steps.take("step")[row])[canvas]
    logp = opened_at_once(odds[still][None], still[still][None], now[still][None])
    assert torch.allclose(values[row], -steps.take("worth")[row] * logp[0])


def test_how_sure_the_model_is_is_read_at_places_that_can_be_opened(models):
    steps = with_sureness(choices(drawn(models), 3), models)
    able, sure = steps.take("open") == 1, steps.take("sure")
    assert torch.equal(sure > 0, able) and bool((sure <= 1).all())


def test_equal_rewards_at_no_worth_of_speed_teach_nothing(models):
    batch = drawn(models)
    task = replace(batch.task, reward=lambda problems, texts: [0.5] * len(texts))
    even = grade(replace(batch, task=task), models)
    for alpha, least, most in ((0.0, 0.0, 1e-12), (1.0, 1e-4, 1e9)):
        found = gradients(speed_rl(**SMALL, alpha=alpha), models, even).auxiliaries
        assert least <= max(float(g.abs().max()) for g in found) <= most


def test_bad_options_are_refused():
    for options, said in (
        ({"n": 1}, "at least 2"),
        ({"alpha": -1.0}, "alpha"),
        ({"length": 0}, "length"),
    ):
        with pytest.raises(ValueError, match=said):
            speed_rl(**options)
