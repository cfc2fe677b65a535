"""ttrl: grpo on the votes of the policy itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.grade import texts
from autodidact.methods.grpo import grpo
from autodidact.methods.ttrl import ttrl
from autodidact.models import Models
from autodidact.rollouts.ranking import votes
from autodidact.run import Run
from autodidact.train import Training
from toys import rows_of, toy_task


def letters(task):
    return replace(task, final=lambda text: "abc"[sum(text.encode()) % 3])


def test_a_task_without_answers_runs(qwen):
    def fail(*_):
        raise AssertionError("this is not to be asked")

    task = letters(toy_task())
    task = replace(
        task, correct=fail, reward=fail, train=[replace(p, answer=None) for p in task.train]
    )
    method = ttrl(4, 5, keep=2)
    training = Training(method, Models(qwen), task, Run(steps=1, rows=16))
    batch, line = training.advance()
    training.close()
    assert method.needs == () and len(batch) == 8
    assert line["grad_norm"] > 1e-4 and not line["skipped"]
    assert training.models.ledger.verified == 0


def test_it_is_grpo_where_the_majority_is_right(qwen):
    """The same rows, advantages, losses and weights as with the elected answer for the truth."""
    task, models = letters(toy_task(6)), Models(qwen)
    ours, base = ttrl(6, 5, keep=4, kl=0.1, clip=0.05), grpo(4, 5, kl=0.1, clip=0.05)
    batch = ours.rollout(task.train, models, task, 0)
    truth = {}
    for text, problem, won in zip(
        texts(batch, models), batch.rows, batch.take("majority"), strict=True
    ):
        if won == 1:
            assert truth.setdefault(problem.question, task.final(text)) == task.final(text)
    right = [
        float(task.final(text) == truth.get(problem.question))
        for text, problem in zip(texts(batch, models), batch.rows, strict=True)
    ]
    assert batch.take("reward").tolist() == right and 0 < sum(right) < len(right)
    found = []
    for method in (ours, base):
        credited = method.credit(batch, models)
        scores = models.scores(method.views(credited, models), credited)
        found += [credited.take("advantage"), method.loss(scores, credited).detach()]
        found.append(method.weigh(credited))
    assert all(torch.equal(*pair) for pair in zip(found[:3], found[3:], strict=True))


def test_votes_do_not_depend_on_their_order():
    given = ["a", None, "b", "b", "c", "b", "a"]
    random = torch.Generator().manual_seed(0)
    expected = [each == "b" for each in given]
    for _ in range(20):
        order = torch.randperm(7, generator=random).tolist()
        won = votes([given[i] for i in order], [1.0] * 7)
        assert [weight == 1.0 for weight in won] == [expected[i] for i in order]


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_nothing_is_learned_from_a_group_that_agrees(reward):
    batch = rows_of([2, 3, 1], [reward] * 3)
    assert not ttrl(3, keep=3).credit(batch, None).take("advantage").any()


@pytest.mark.parametrize(
    ("arguments", "words"), [({"keep": 1}, "keep=1"), ({"n": 8, "keep": 9}, "keep=9 of n=8")]
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ttrl(**arguments)
