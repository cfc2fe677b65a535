"""spin: the solution against what the last iterate writes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.methods.dpo import dpo
from autodidact.methods.spin import spin
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.rollouts.role import SolutionPairs
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.train import Training
from toys import about, pair_loss, random_logits, rows_of, toy_task, two_pairs

BETA = 0.3


@pytest.fixture
def pairs():
    return two_pairs()


def texts(batch):
    return [i[o].tolist() for i, o in zip(batch.ids, batch.own, strict=True)]


def test_on_the_same_pairs_it_is_dpo(pairs):
    batch, policy, reference = pairs
    one, two = (pair_loss(method, batch, policy, reference) for method in (spin(BETA), dpo(BETA)))
    assert float(one.detach()) == pytest.approx(float(two.detach()), rel=1e-12)
    grads = [torch.autograd.grad(each, policy)[0] for each in (one, two)]
    assert grads[0].abs().max() > 1e-3 and torch.allclose(*grads, rtol=1e-12)


def test_against_itself_the_loss_is_log_2_and_the_hinge_1(pairs):
    batch, policy, _ = pairs
    for kind, value in (("logistic", math.log(2)), ("hinge", 1.0)):
        found = pair_loss(spin(BETA, kind=kind), batch, policy, policy.detach())
        assert float(found.detach()) == pytest.approx(value, rel=1e-7)


def test_the_hinge_is_flat_beyond_a_margin_of_1(pairs):
    batch, policy, reference = pairs
    for beta in (BETA, 50.0):
        gaps = (about(batch, policy).logp - about(batch, reference).logp).sum(1)
        h = beta * torch.stack([gaps[0] - gaps[1], gaps[2] - gaps[3]])
        expected = (1 - h).relu().mean()
        found = pair_loss(spin(beta, kind="hinge"), batch, policy, reference)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-7)
    assert (h > 1).any() and (h < 1).any()


@pytest.mark.parametrize("kind", ["logistic", "hinge"])
def test_when_the_opponent_is_the_law_of_the_data_nothing_is_learned_on_average(kind):
    """All 81 pairs of two-token texts over three words, each as likely as the law makes it."""
    table = random_logits(4, 3)  # the first token, then the second after each first one
    law = table.detach().log_softmax(-1)
    all_texts = [(a, b) for a in range(3) for b in range(3)]
    chance = {(a, b): float((law[0, a] + law[1 + a, b]).exp()) for a, b in all_texts}
    rows = [text for one in all_texts for other in all_texts for text in (one, other)]
    batch = rows_of([2] * len(rows), side=[1.0, -1.0] * 81)
    batch = replace(
        batch, ids=torch.tensor([(0, *text) for text in rows]), group=torch.arange(162) // 2
    )
    logits = torch.stack([row for a, _ in rows for row in (table[0], table[1 + a])])
    scores = {"policy": about(batch, logits), "reference": about(batch, logits.detach())}
    weight = torch.tensor(
        [chance[row] * chance[other] for row, other in zip(rows[::2], rows[1::2], strict=True)]
    )
    values = spin(BETA, kind=kind).loss(scores, batch)[::2]
    assert float(weight.sum()) == pytest.approx(1.0)
    each = torch.autograd.grad((values * weight).sum(), table, retain_graph=True)[0]
    assert float(each.abs().max()) < 1e-8
    data = torch.zeros(81)
    data[:9] = torch.tensor([chance[text] for text in all_texts])  # data that always says the first
    assert torch.autograd.grad((values * data).sum(), table)[0].abs().max() > 1e-2


def test_the_pairs_are_solutions_and_what_the_opponent_writes(qwen):
    task, models = toy_task(4), Models(qwen)
    batch = SolutionPairs(6)(task.train, models, task, 3)
    drawn = Sample(1, 6)(task.train, Models(models["initial"]), task, 3)
    assert texts(batch)[::2] == [qwen.encode(problem.solution) for problem in task.train]
    assert texts(batch)[1::2] == texts(drawn)
    assert batch.take("side").tolist() == [1.0, -1.0] * 4
    assert batch.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.take("finished")[1::2].tolist() == drawn.take("finished").tolist()
    assert models.ledger.generated == int(drawn.own.sum()), "solutions are not drawn"


def test_within_an_iteration_the_opponent_stands_still(qwen):
    """copy:2: after every second update the policy of then is what draws."""

    def weights(lm):
        return torch.cat([p.detach().flatten() for p in lm.model.parameters()])

    models, run = Models(qwen), Run(steps=4, rows=8, lr=0.1)
    training = Training(spin(length=6, opponent="copy:2"), models, toy_task(4), run)
    seen = [weights(models.policy)]
    for updates in range(1, 5):
        batch, _ = training.advance()
        seen.append(weights(models.policy))
        assert len(batch) == 8 and not torch.equal(seen[-1], seen[-2])
        assert torch.equal(weights(models["copy:2"]), seen[updates - updates % 2])


def test_a_solution_that_does_not_fit_is_refused(qwen):
    task = replace(toy_task(1), train=[Problem("1+1", "2" * 400)])
    with pytest.raises(ValueError, match="has 401 tokens, too many for the context of 256"):
        SolutionPairs(6)(task.train, Models(qwen), task, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"kind": "hing"}, "did you mean 'hinge'"), ({"length": 0}, "length=0")],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        spin(**arguments)
