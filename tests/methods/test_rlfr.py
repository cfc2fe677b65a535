"""rlfr: which tokens are fined, for what, and that without a fine it is grpo."""

from __future__ import annotations

import pytest
import torch

from autodidact.auxiliary import states
from autodidact.credits.flow import Flow, FlowNet, flow_penalty, normal, off_flow
from autodidact.grade import grade
from autodidact.methods.grpo import grpo
from autodidact.methods.rlfr import rlfr
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import padded, perturb, photograph, random_logits, rows_of, taught, toy_task

OPTIONS = {"n": 3, "length": 7, "blocks": 1}


@pytest.fixture
def case(qwen):
    models, task = Models(qwen), toy_task(6)
    batch = grade(grpo(3, 7).rollout(task.train, models, task, 1), models)
    assert models["initial"]
    perturb(models.policy)
    return models, batch


def test_without_a_fine_it_is_grpo(case):
    models, batch = case
    found = []
    for method in (rlfr(flow=0.0, **OPTIONS), grpo(3, 7)):
        credited = method.credit(batch, models)
        scores = models.scores(method.views(credited, models), credited)
        found.append((method.loss(scores, credited) * method.weigh(credited)).detach())
    assert torch.equal(*found) and found[0].abs().max() > 1e-3
    fined = rlfr(flow=0.5, **OPTIONS).credit(batch, models).take("advantage")
    assert (fined - grpo(3, 7).credit(batch, models).take("advantage"))[batch.own].min() < -0.4


def test_the_error_of_a_token_is_that_of_the_velocity_by_hand(case):
    models, batch = case
    flow = Flow(blocks=1)
    found = flow.read(batch, models)
    h, before, noise = (found.take(f"flow_{x}") for x in ("states", "before", "noise"))
    assert torch.equal(h, states(batch, models, "initial", "after", flow.depths))
    assert torch.equal(before, states(batch, models, "initial", "before", flow.depths))
    network = models.trained(flow.auxiliary).network
    row = int(batch.own.sum(1).argmax())
    t = int(batch.own[row].int().argmax()) + 1
    x, e, c = (each[row, t].view(3, -1) for each in (h, noise, before))
    for tau, value in ((torch.tensor(0.8).double(), found.take("flow")[row, t]), (
        found.take("flow_time")[row, t], flow.loss(network, found)[row, t]
    )):  # fmt: skip
        said = network((tau * x + (1 - tau) * e)[None], tau[None], c[None])[0]
        expected = ((said - (x - e)) ** 2).mean()
        assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-7)
    score = flow.score(found)
    assert torch.allclose(score, 4 * found.take("flow")) and not score[~batch.own].any()


def test_a_network_that_knows_the_flow_finds_nothing_to_fine(case):
    models, batch = case
    flow = Flow()
    batch = flow.read(batch, models)

    class Knows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kind = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x, tau, context):
            h, e = (batch.take(f"flow_{k}")[batch.own].view(x.shape) for k in ("states", "noise"))
            return h - e + self.kind

    errors = flow.errors(Knows(), batch, batch.take("flow_time"))
    assert not errors.any()
    assert not off_flow(errors, batch.own).any()


def test_the_highest_of_a_row_are_fined_by_hand():
    batch = rows_of([5, 3, 2])
    scores = torch.zeros(3, 6, dtype=torch.float64)
    scores[0, 1:6] = torch.tensor([1.0, 5.0, 4.0, 3.0, 4.5])
    scores[1, 1:4] = 2.0
    scores[2, 1:3] = torch.tensor([0.0, 7.0])
    found = off_flow(scores, batch.own, 0.6, 2)
    assert found[0].tolist() == pytest.approx([0, 0, 1.0, 0, 0, 0.875])
    assert not found[1].any(), "equal scores say nothing"
    assert found[2].tolist() == pytest.approx([0, 0, 1, 0, 0, 0])
    whole = off_flow(scores, batch.own, 0.6, 15)
    assert whole[0].tolist() == pytest.approx([0, 0, 1.0, 0.75, 0, 0.875])
    assert off_flow(scores, batch.own, 0.5, 15)[0, 4] == 0, "up to the threshold, itself included"


def test_what_is_still_to_be_paid_never_grows_along_a_row():
    batch = rows_of([5, 3])
    scores = random_logits(2, 6, seed=2).detach().abs() * batch.own
    found = flow_penalty(scores, batch.own, 0.01)
    for row in range(2):
        each = found[row][batch.own[row]]
        rest = scores[row][batch.own[row]].flip(0).cumsum(0).flip(0)
        assert torch.allclose(each, -0.01 * rest, rtol=1e-12)
        assert (each.diff() >= 0).all() and (each <= 0).all()


def test_noise_is_standard_normal_and_a_function_of_the_row():
    batch = rows_of([40] * 3 + [11])
    found = normal(batch, 300, 1)
    drawn = found[batch.own]
    assert float(drawn.mean()) == pytest.approx(0, abs=0.02)
    assert float(drawn.var()) == pytest.approx(1, abs=0.03)
    assert float((drawn**4).mean()) == pytest.approx(3, abs=0.2)
    across = (drawn[:, 1:] * drawn[:, :-1]).mean(), (drawn[1:] * drawn[:-1]).mean()
    assert max(map(abs, map(float, across))) < 0.03
    assert not found[~batch.own].any() and not torch.equal(found, normal(batch, 300, 2))
    order = [3, 1, 0, 2]
    moved = normal(batch.select(order), 300, 1)
    assert torch.equal(moved, found[order])
    assert torch.equal(normal(padded(batch), 300, 1)[:, :41], found)


def test_credit_is_a_function_of_rows_and_updates(case):
    models, batch = case
    method = rlfr(**OPTIONS)
    one, two = (photograph(method.credit(batch, models)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    models.trained(method.auxiliaries[0]).updates = 1
    assert not torch.equal(
        one["flow_noise"], photograph(method.credit(batch, models))["flow_noise"]
    )


def test_the_flow_learns_on_right_answers_alone(case):
    _, batch = case
    correct = torch.zeros(len(batch))
    correct[[1, 4]] = 1.0
    correct[2] = torch.nan
    weight = Flow().weigh(batch.put(correct=correct))
    right = batch.own & (correct == 1)[:, None]
    assert torch.allclose(weight, right / right.sum()) and int(right.sum()) > 2
    assert not Flow().weigh(batch.put(correct=torch.zeros(len(batch)))).any()


def test_the_network_learns_the_velocities_of_a_batch(case):
    models, batch = case
    method = rlfr(3, 7, blocks=2, value_lr=1e-2)
    (flow,) = method.auxiliaries
    batch = method.credit(batch.put(correct=torch.ones(len(batch))), models)
    batch = batch.put(weight_flow=flow.weigh(batch))
    losses = [taught(models.trained(flow), flow, batch.split(5), 1.0) for _ in range(60)]
    assert losses[0] > 1 and losses[-1] < 0.3 * losses[0]


def test_a_step_of_training_teaches_both(qwen):
    models = Models(qwen)
    training = Training(rlfr(4, 6, blocks=1), models, toy_task(8), Run(steps=1, rows=32, lr=1e-3))
    before = models.policy.model.lm_head.weight.detach().clone()
    _, line = training.advance()
    assert line["loss_flow"] > 0 and models.auxiliaries["flow"].updates == 1
    assert not torch.equal(before, models.policy.model.lm_head.weight)


def test_a_network_tells_times_and_depths_apart():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FlowNet(8, 3, 2)
    x = torch.ones(2, 3, 8)
    found = network(x, torch.tensor([0.2, 0.9]), torch.zeros(2, 3, 8))
    assert found.shape == x.shape
    assert (found[0] - found[1]).abs().max() > 1e-3 and (
        found[0, 0] - found[0, 1]
    ).abs().max() > 1e-3
    other = network(x, torch.tensor([0.2, 0.9]), torch.ones(2, 3, 8))
    assert (found - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"n": 1}, "at least 2"), ({"at": 1.0}, r"at=1\.0"), ({"most": 0}, "most=0")],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        rlfr(**options)
