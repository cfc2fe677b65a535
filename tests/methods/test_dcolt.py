"""DCoLT: orders drawn by Plackett and Luce, their probability, and what the head learns from."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from autodidact.credits.opening import choices, ordered_loss
from autodidact.credits.unmasking import Opener, gumbel, plackett_luce
from autodidact.credits.visited import written_at
from autodidact.engine import Request
from autodidact.engines.unmask import Unmask
from autodidact.grade import grade
from autodidact.law import Law, uniform
from autodidact.learn import credited, gradients
from autodidact.losses.likelihood import Likelihood
from autodidact.methods.dcolt import dcolt
from autodidact.models import Models
from toys import random_logits, random_masked, toy_task

SMALL = {"n": 4, "length": 6, "steps": 3, "block": None}


@pytest.fixture
def models(tokenizer):
    return Models(random_masked(tokenizer))


def drawn(models, **options):
    task = toy_task(4)
    batch = dcolt(**{**SMALL, **options}).rollout(task.train, models, task, 3)
    return grade(batch, models)


def of_order(scores, taken, open=None):
    """log P of taking these places in this order."""
    rank = torch.zeros(1, scores.shape[-1], dtype=torch.long)
    for turn, place in enumerate(taken, 1):
        rank[0, place] = turn
    able = torch.ones_like(rank, dtype=torch.bool) if open is None else open
    return plackett_luce(scores, able, rank)[0]


def test_orders_of_so_many_places_add_up_to_one():
    scores = random_logits(1, 5, size=2.0)
    for count in range(6):
        every = [of_order(scores, each).exp() for each in permutations(range(5), count)]
        assert float(sum(every).detach()) == pytest.approx(1.0, abs=1e-12)
    first = torch.stack([of_order(scores, [place]) for place in range(5)])
    assert torch.allclose(first, scores[0].log_softmax(-1)), "one place is a softmax"


def test_places_that_cannot_be_opened_have_no_say():
    scores, open = random_logits(1, 5), torch.tensor([[True, False, True, True, False]])
    whole = of_order(scores[:, [0, 2, 3]], [2, 0])
    assert torch.allclose(of_order(scores, [3, 0], open), whole, atol=1e-12)
    (gradient,) = torch.autograd.grad(of_order(scores, [3, 0], open), scores)
    assert gradient.isfinite().all() and not gradient[0, [1, 4]].any()


def test_an_order_of_all_places_has_no_gradient_on_average():
    scores = random_logits(1, 4)
    every = [of_order(scores, each) for each in permutations(range(4))]
    each = [torch.autograd.grad(v, scores, retain_graph=True)[0] * v.detach().exp() for v in every]
    assert float(sum(each).abs().max()) < 1e-12
    assert max(float(g.abs().max()) for g in each) > 1e-3, "but of each one it has"


def test_scores_with_gumbel_noise_are_drawn_by_plackett_and_luce():
    scores, count = random_logits(1, 3).detach(), 40000
    places = torch.arange(3 * count)
    names = torch.zeros_like(places)
    noise = gumbel(uniform(0, names, names, places)).view(count, 3)
    found = (scores + noise).argsort(dim=1, descending=True)[:, :2]
    for pair in permutations(range(3), 2):
        share = float((found == torch.tensor(pair)).all(1).double().mean())
        assert share == pytest.approx(float(of_order(scores, pair).exp()), abs=0.01)


def test_completions_tell_steps_and_turns(models):
    lm = models.policy
    head = Opener(16).double()
    engine = Unmask(3, network=head)
    requests = [Request((5, 6), k, 7) for k in range(3)]
    for each in engine.draw(lm, requests, Law(), 1).completions:
        assert sorted(each.order) == [1, 1, 1, 2, 2, 3, 3]
        for step, count in ((1, 3), (2, 2), (3, 2)):
            turns = [r for r, s in zip(each.rank, each.order, strict=True) if s == step]
            assert sorted(turns) == list(range(1, count + 1))
    given = Request((5, 6), 0, 3, canvas=(9, None, 9))
    (found,) = engine.draw(lm, [given], Law(), 1).completions
    assert found.order == [0, 1, 0] and found.rank == [0, 1, 0] and found.ids[::2] == [9, 9]


@torch.no_grad()
def test_the_engine_takes_the_places_that_the_head_scores_highest(models):
    lm, head = models.policy, Opener(16).double()
    engine = Unmask(3, network=head, chance=False)
    (found,) = engine.draw(lm, [Request((5, 6), 0, 6)], Law(), 1).completions
    ids = torch.tensor([[5, 6, *found.ids]])
    order, rank = torch.tensor([found.order]), torch.tensor([found.rank])
    whole = torch.ones(1, 6, dtype=torch.bool)
    for step in (1, 2, 3):
        hidden = order >= step
        fed = torch.where(torch.nn.functional.pad(hidden, (2, 0)), lm.mask, ids)
        states = lm.hidden(fed, torch.ones_like(fed).bool()).last_hidden_state[:, 2:]
        scores = torch.where(hidden, head(states, whole, hidden, hidden), -torch.inf)
        taken = [int(((order == step) & (rank == turn)).int().argmax()) for turn in (1, 2)]
        assert scores[0].argsort(descending=True)[:2].tolist() == taken


def test_a_head_reads_no_padding():
    head, states = Opener(4).double(), random_logits(2, 5, 4).detach()
    canvas = torch.ones(2, 5, dtype=torch.bool)
    wide = torch.nn.functional.pad(states, (0, 0, 2, 3), value=7.0)
    padded = torch.nn.functional.pad(canvas, (2, 3))
    found = head(wide, padded, padded, padded)
    assert torch.allclose(found[:, 2:7], head(states, canvas, canvas, canvas))


def test_without_terms_of_the_order_it_is_reinforce_on_the_trace(models):
    method, batch = dcolt(**SMALL), drawn(models)
    found = gradients(method, models, batch).policy
    reading = Likelihood("trace")
    scores = models.scores(reading.views(batch, models, "policy", "policy"), batch)
    with torch.no_grad():
        steps = credited(method, models, batch)
    advantage = torch.zeros(len(batch), dtype=torch.float64)
    advantage[steps.take("trace")] = steps.take("worth").double()
    count = written_at(batch).amax(1)
    loss = -(advantage[:, None] * scores["policy"].logp / count[:, None]).sum() / len(batch)
    weights = [w for w in models.policy.model.parameters() if w.requires_grad]
    expected = torch.autograd.grad(loss, weights, allow_unused=True)
    for a, b in zip(found, [e for e in expected if e is not None], strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_head_learns_from_every_step_but_the_last_of_a_block(models):
    method, batch = dcolt(**{**SMALL, "block": 3, "steps": 4}), drawn(models, block=3, steps=4)
    with torch.no_grad():
        steps = credited(method, models, batch)
    assert steps.take("choice").view(-1, 4).tolist() == [[1, 0, 1, 0]] * len(batch)
    assert steps.take("open").sum(1).view(-1, 4).tolist() == [[3, 1, 3, 1]] * len(batch)
    weight = steps.take("weight_opener").view(-1, 4)
    assert torch.allclose(weight.sum(1), torch.full_like(weight[:, 0], 0.5 / len(batch)))


def test_the_gradient_of_the_head_is_that_of_the_chance_of_its_orders(models):
    method, batch = dcolt(**SMALL), drawn(models)
    found = gradients(method, models, batch).auxiliaries
    with torch.no_grad():
        steps = credited(method, models, batch)
    head = models.trained(method.auxiliaries[0]).network
    values = ordered_loss(head, steps)
    row = int(steps.take("worth").abs().argmax())
    canvas = steps.take("canvas")[row] == 1
    still = (steps.take("still")[row] == 1)[canvas][None]
    states = steps.take("states")[row][canvas][None]
    h = head(states, torch.ones_like(still), still, still)[0]
    order, rank = (steps.take(name)[row][canvas] for name in ("order", "rank"))
    now = order == steps.take("step")[row]
    left, value = still[0].clone(), 0.0
    for turn in range(1, int(now.sum()) + 1):
        place = int((now & (rank == turn)).int().argmax())
        value = value + h[place] - h[left].logsumexp(0)
        left[place] = False
    assert torch.allclose(values[row], -steps.take("worth")[row] * value)
    loss = (values * steps.take("weight_opener")).sum()
    expected = torch.autograd.grad(loss, list(head.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_all_steps_of_a_row_share_its_advantage(models):
    batch = drawn(models)
    steps = choices(batch, None)
    task = replace(batch.task, reward=lambda problems, texts: [1.0] * len(texts))
    even = choices(grade(replace(batch, task=task), models), None)
    assert not even.take("worth").any()
    for number in range(len(batch)):
        assert len(steps.take("worth")[steps.take("trace") == number].unique()) == 1


def test_bad_options_are_refused():
    for options, said in (
        ({"n": 1}, "at least 2"),
        ({"steps": -1}, "steps"),
        ({"length": 0}, "length"),
    ):
        with pytest.raises(ValueError, match=said):
            dcolt(**options)
