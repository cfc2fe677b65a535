"""d3s: which rows, which tokens, and how both shares grow."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from autodidact.grade import grade
from autodidact.learn import learn
from autodidact.methods.d3s import d3s
from autodidact.methods.grpo import grpo
from autodidact.models import Models
from autodidact.run import Run
from autodidact.view import plain
from toys import about, rows_of, toy_task

ALL = {"rows": 1.0, "rows_last": 1.0, "tokens": 1.0, "tokens_last": 1.0}


@pytest.fixture
def case(qwen):
    """Models, and four groups of four graded rows."""
    models, task = Models(qwen), toy_task()
    batch = d3s(4, 6).rollout(task.train, models, task, 0)
    return models, grade(batch, models)


def fixed(rows: float, tokens: float, **arguments):
    return d3s(4, 6, rows, rows, tokens, tokens, **arguments)


def test_all_rows_and_tokens_are_grpo_with_a_mean_over_tokens(case):
    models, batch = case
    found = []
    for method in (d3s(4, 6, **ALL), grpo(4, 6, normalise="token")):
        credited = method.credit(batch, models)
        scores = models.scores(method.views(credited, models), credited)
        found += [credited.take("advantage"), method.loss(scores, credited).detach()]
        found.append(method.weigh(credited))
    assert all(torch.equal(*pair) for pair in zip(found[:3], found[3:], strict=True))
    assert found[0].any()


@pytest.mark.parametrize("rows", [0.25, 0.5])
def test_the_rows_are_those_of_largest_variance_of_their_advantages(case, rows):
    models, batch = case
    kept = fixed(rows, 1.0).credit(batch, models)
    whole = grpo(4, 6).credit(batch, models)
    each = (whole.take("advantage").sum(1) / batch.own.sum(1)).double()
    count = math.ceil(rows * len(batch))
    best = max(float(each[list(some)].var(correction=0)) for some in combinations(range(16), count))
    mine = (kept.take("advantage").sum(1) / kept.own.sum(1)).double()
    assert len(kept) == count
    assert float(mine.var(correction=0)) == pytest.approx(best, abs=1e-5)
    known = {tuple(ids[real].tolist()) for ids, real in zip(batch.ids, batch.real, strict=True)}
    assert {
        tuple(ids[real].tolist()) for ids, real in zip(kept.ids, kept.real, strict=True)
    } <= known


def test_the_tokens_are_those_of_largest_advantage_times_entropy(case):
    models, batch = case
    method = fixed(0.5, 0.3)
    kept = method.credit(batch, models)
    whole = fixed(0.5, 1.0).credit(batch, models)
    assert torch.equal(kept.ids, whole.ids)
    entropy = models.score(plain(kept, grad=False), kept).entropy
    size = whole.take("advantage").abs() * entropy
    chosen = kept.take("chosen")
    assert int(chosen.sum()) == math.ceil(0.3 * int(kept.own.sum()))
    assert size[chosen].min() > size[kept.own & ~chosen].max()
    advantage = kept.take("advantage")
    assert torch.equal(advantage[chosen], whole.take("advantage")[chosen])
    assert not advantage[~chosen].any()
    assert torch.allclose(method.weigh(kept), chosen / chosen.sum())


def test_both_shares_grow_linearly_over_the_updates(case):
    models, batch = case
    method, found = d3s(4, 6, 0.25, 0.75, 0.2, 0.6, over=4), []
    for updates in range(6):
        models.ledger.optimizer_steps = updates
        kept = method.credit(batch, models)
        done = min(updates, 4) / 4
        assert len(kept) == math.ceil(16 * (0.25 + 0.5 * done))
        tokens = round((0.2 + 0.4 * done) * int(kept.own.sum()), 9)
        assert int(kept.take("chosen").sum()) == math.ceil(tokens)
        found.append(len(kept))
    assert found == [4, 6, 8, 10, 12, 12]


def test_rows_that_are_left_out_cost_no_backward_pass(case):
    models, batch = case
    spent = {}
    for rows in (0.25, 1.0):
        optimizer = torch.optim.SGD(models.policy.model.parameters(), lr=0.0)
        before = models.ledger.student_backward
        learn(fixed(rows, 0.5), models, batch, optimizer, Run(steps=1, rows=len(batch)))
        spent[rows] = models.ledger.student_backward - before
    assert 0 < spent[0.25] < 0.5 * spent[1.0]


def test_a_batch_without_spread_teaches_nothing(case):
    models, batch = case
    batch = batch.put(reward=torch.ones(len(batch)))
    assert not fixed(0.5, 0.5).credit(batch, models).take("advantage").any()


def test_one_ratio_for_a_whole_row_is_gspo(case):
    """log s is the mean gap of the row, though only some of its tokens count."""
    models, batch = case
    method = fixed(1.0, 0.5, level="sequence", clip=0.5)
    batch = method.credit(batch.put(raw=batch.take("raw") - 0.1), models)
    scores = models.score(plain(batch), batch)
    value = method.loss({"policy": scores}, batch)
    expected = -math.exp(0.1) * batch.take("advantage")
    assert torch.allclose(value[batch.own].double(), expected[batch.own].double(), rtol=1e-5)


def test_entropies_are_those_of_the_rows_that_are_kept():
    """Rows 0 and 3 are kept; the flat token of each is."""

    class Reader:
        ledger = type("Ledger", (), {"optimizer_steps": 0})

        def score(self, view, batch):
            logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]] * len(batch))
            return about(batch, logits)

    batch = rows_of([2, 2, 2, 2], [1.0, 0.5, 0.5, 0.0])
    batch = replace(batch, group=torch.zeros(4, dtype=torch.long))
    kept = d3s(4, 2, 0.5, 0.5, 0.5, 0.5).credit(batch, Reader())
    assert [problem.question for problem in kept.rows] == ["0", "3"]
    assert kept.take("chosen").tolist() == [[False, True, False], [False, True, False]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 1}, "at least 2"),
        ({"rows": 0.0}, r"rows=0\.0"),
        ({"tokens_last": 1.1}, r"tokens_last=1\.1"),
        ({"over": 0}, "over=0"),
        ({"level": "row"}, "level 'row'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        d3s(**arguments)
