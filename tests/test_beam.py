"""Search by a value network: what it keeps, and when it is sampling or the best of n."""

from __future__ import annotations

import pytest
import torch

from autodidact.credits.value import Critic
from autodidact.law import Law
from autodidact.models import Models
from autodidact.rollouts import beam
from autodidact.rollouts.beam import Beam, last_values
from autodidact.rollouts.sample import Sample
from toys import photograph, toy_task


@pytest.fixture
def models(qwen):
    return Models(qwen)


def texts(batch):
    return [tuple(batch.ids[i][batch.own[i]].tolist()) for i in range(len(batch))]


@pytest.mark.parametrize("mark", ["", "a"])
@pytest.mark.parametrize("step", [1, 3, 20])
def test_one_path_that_goes_one_way_is_a_sample(models, step, mark):
    task = toy_task(5)
    found = Beam(width=1, branch=1, step=step, mark=mark, length=9)(task.train, models, task, 3)
    one, two = photograph(found), photograph(Sample(1, 9)(task.train, models, task, 3))
    assert one.keys() - two.keys() == {"value"}
    assert all(torch.allclose(one[k].double(), two[k].double(), atol=1e-6) for k in two)
    assert torch.equal(one["ids"], two["ids"])


@pytest.mark.parametrize("step", [2, 20])
def test_without_branches_it_is_the_best_n_of_the_samples_at_equal_tokens(models, step):
    task, rollout = toy_task(4), Beam(n=2, width=5, branch=1, step=step, mark="", length=6)
    found = rollout(task.train, models, task, 3)
    spent = models.ledger.generated
    drawn = Sample(5, 6)(task.train, models, task, 3)
    assert models.ledger.generated == 2 * spent
    values, said = last_values(rollout.critic, models, drawn).tolist(), texts(drawn)
    expected = []
    for group in range(4):
        rows = sorted(range(5 * group, 5 * group + 5), key=lambda i: -values[i])
        best = list(dict.fromkeys(said[i] for i in rows))[:2]
        expected += [(group, each) for each in best]
    assert list(zip(found.group.tolist(), texts(found), strict=True)) == expected
    assert torch.allclose(found.take("value"), last_values(rollout.critic, models, found))


def planted(critic, models, batch):
    """A value that is known: how many of the tokens are even, less those that are odd."""
    return ((1.0 - 2.0 * (batch.ids % 2)) * batch.own).sum(1)


def test_each_step_keeps_the_paths_of_highest_value(models, monkeypatch):
    monkeypatch.setattr(beam, "last_values", planted)
    task, law = toy_task(3), Law(1.0)
    rollout = Beam(n=2, width=2, branch=3, step=2, mark="", length=4, law=law)
    found = rollout(task.train, models, task, 7)
    first = Sample(6, 2, law)(task.train, models, task, 7)
    values, said = planted(None, None, first).tolist(), texts(first)
    for group in range(3):
        rows = sorted(range(6 * group, 6 * group + 6), key=lambda i: -values[i])
        kept = list(dict.fromkeys(said[i] for i in rows))[:2]
        ends = [
            text for g, text in zip(found.group.tolist(), texts(found), strict=True) if g == group
        ]
        assert ends and all(text[:2] in kept for text in ends)
    value = found.take("value")
    assert torch.equal(value, planted(None, None, found))
    plain = Sample(6, 4, law)(task.train, models, task, 7)
    assert value.mean() > planted(None, None, plain).mean() + 1


def test_branches_of_a_path_are_draws_of_their_own(models):
    """All ways on that are kept differ, and equal ones are kept once."""
    task = toy_task(2)
    many = Beam(n=4, width=4, branch=4, step=3, length=6)(task.train, models, task, 1)
    assert len(many) == 8 == len(set(zip(many.group.tolist(), texts(many), strict=True)))
    greedy = Beam(n=4, width=4, branch=4, step=3, length=6, law=Law(0.0))
    assert len(greedy(task.train, models, task, 1)) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 5}, "n=5 rows of width=4"),
        ({"branch": 0}, "branch=0"),
        ({"critic": Critic()}, "where='before'"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Beam(**options)
