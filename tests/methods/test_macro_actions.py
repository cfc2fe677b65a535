"""macro_actions: where chunks begin, what they are worth, and that single tokens are ppo."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.macro import LENGTHS, chunk_gae, macro_chunks, rising, sigma_weights
from autodidact.credits.spans import Spans
from autodidact.credits.value import token_rewards
from autodidact.grade import grade
from autodidact.methods.macro_actions import macro_actions
from autodidact.methods.ppo import ppo
from autodidact.models import Models
from autodidact.view import plain
from toys import perturb, random_logits, rows_of, toy_task


@pytest.fixture
def case(qwen):
    models, task = Models(qwen), toy_task(6)
    batch = grade(ppo(2, 9).rollout(task.train, models, task, 1), models)
    assert models["initial"]
    perturb(models.policy)
    return models, batch


def numbers(spans, batch, row):
    return spans.number[row][batch.own[row]].tolist()


def test_chunks_of_n_tokens_pass_over_a_tool_and_the_last_token_stands_alone():
    batch = rows_of([8, 1, 4])
    own = batch.own.clone()
    own[0, 3] = False
    batch = replace(batch, own=own)
    spans = macro_chunks(batch, None, "ngram", 3)
    assert numbers(spans, batch, 0) == [0, 0, 0, 1, 1, 1, 2]
    assert numbers(spans, batch, 1) == [0] and numbers(spans, batch, 2) == [0, 0, 0, 1]
    assert (spans.number[~own] == -1).all()


def test_random_chunks_have_the_lengths_of_the_paper_and_depend_on_the_row_alone():
    batch = rows_of([300] * 3 + [17])
    spans = macro_chunks(batch, None, "random")
    sizes = [row[row > 0].tolist() for row in spans.sizes()]
    assert [sum(each) for each in sizes] == [300, 300, 300, 17]
    seen = {size for each in sizes[:3] for size in each[:-2]}
    assert seen == set(LENGTHS) and all(each[-1] == 1 for each in sizes)
    assert len({tuple(each) for each in sizes[:3]}) == 3
    alone = macro_chunks(batch.select([3]), None, "random")
    assert torch.equal(alone.number, spans.number[3:, : alone.number.shape[1]])


def test_a_chunk_of_perplexity_begins_where_the_row_becomes_more_surprising(case):
    models, batch = case
    logp = models.score(plain(batch, "initial"), batch).logp
    spans = macro_chunks(batch, models, "perplexity")
    for row in range(len(batch)):
        values = logp[row][batch.own[row]].tolist()
        mean = [-sum(values[: t + 1]) / (t + 1) for t in range(len(values))]
        begins = [t == 0 or mean[t] > mean[t - 1] or t == len(values) - 1 for t in range(len(mean))]
        expected = [sum(begins[: t + 1]) - 1 for t in range(len(values))]
        assert numbers(spans, batch, row) == expected
    flat = torch.full(batch.own.shape, -0.1, dtype=torch.float64)
    assert not rising(flat, batch.own).any()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("equal", [1 / 3] * 3 + [1 / 2] * 2 + [1.0]),
        ("unit", [0, 0, 1, 0, 1, 1]),
        ("position", [6 / 11, 3 / 11, 2 / 11, 2 / 3, 1 / 3, 1]),
    ],
)
def test_weights_inside_a_chunk_by_hand(kind, expected):
    spans = Spans(torch.tensor([[-1, 0, 0, 0, -1, 1, 1, 2]]))
    found = sigma_weights(spans, kind)
    assert found[spans.inside].tolist() == pytest.approx(expected)
    assert not found[~spans.inside].any()
    assert spans.sums(found)[0].tolist() == pytest.approx([1, 1, 1])


def test_advantages_of_two_chunks_by_hand():
    spans = Spans(torch.tensor([[-1, 0, 0, 1]]))
    rewards = torch.tensor([[0, 0.2, 0.4, 1.0]]).double()
    values = torch.tensor([[9, 0.5, 0.7, 0.1]]).double()
    advantage, returns = chunk_gae(spans, sigma_weights(spans), rewards, values, 0.9, 0.5)
    last = 1.0 - 0.1
    first = 0.3 + 0.9 * 0.1 - 0.6 + 0.9 * 0.5 * last
    assert advantage[0].tolist() == pytest.approx([0, first, first, last])
    assert returns[0].tolist() == pytest.approx([0, first + 0.6, first + 0.6, 1.0])


def test_one_chunk_is_a_bandit():
    """The advantage is constant, and what it is does not depend on gamma and lambda."""
    batch = rows_of([5, 3])
    spans = Spans(torch.where(batch.own, 0, -1))
    rewards, values = (random_logits(2, 6, seed=s).detach() for s in (1, 2))
    for gamma, lam in ((1.0, 1.0), (0.3, 0.5)):
        advantage, returns = chunk_gae(spans, sigma_weights(spans), rewards, values, gamma, lam)
        for row in range(2):
            own = batch.own[row]
            gap = float((rewards - values)[row][own].mean())
            assert advantage[row][own].tolist() == pytest.approx([gap] * int(own.sum()))
            assert float(returns[row, 1]) == pytest.approx(float(rewards[row][own].mean()))


@pytest.mark.parametrize("sigma", ["equal", "unit", "position"])
def test_chunks_of_one_token_are_ppo(case, sigma):
    models, batch = case
    options = {"n": 2, "length": 9, "kl": 0.2, "gamma": 0.9, "lam": 0.8, "value_clip": 0.2}
    one = ppo(**options).credit(batch, models)
    two = macro_actions(size=1, sigma=sigma, **options).credit(batch, models)
    for name in ("advantage", "returns", "value"):
        assert torch.allclose(one.take(name), two.take(name), atol=1e-12), name
    assert one.take("advantage").abs().max() > 0.1


def test_the_penalty_of_a_chunk_is_averaged_and_the_reward_is_whole(case):
    models, batch = case
    method = macro_actions(2, 9, size=4, kl=0.3, lam=1.0)
    found, tokens = method.credit(batch, models), token_rewards(batch, models, 0.3)
    for row in range(len(batch)):
        each = tokens[row][batch.own[row]].tolist()
        inner = each[:-1]
        groups = [inner[i : i + 4] for i in range(0, len(inner), 4)]
        total = sum(sum(group) / len(group) for group in groups) + each[-1]
        first = float(found.take("returns")[row][batch.own[row]][0])
        assert first == pytest.approx(total, abs=1e-9)


def test_every_token_of_a_chunk_learns_the_return_of_the_chunk(case):
    models, batch = case
    found = macro_actions(2, 9, size=4).credit(batch, models)
    spans = macro_chunks(batch, None, "ngram", 4)
    for name in ("returns", "advantage"):
        values = found.take(name)
        assert torch.allclose(values[batch.own], spans.at(spans.means(values))[batch.own])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunks": "ngrams"}, "did you mean 'ngram'"),
        ({"sigma": "equals"}, "did you mean 'equal'"),
        ({"size": 0}, "size=0"),
    ],
)
def test_what_cannot_be_is_refused(case, options, words):
    models, batch = case
    with pytest.raises(ValueError, match=words):
        macro_actions(2, 9, **options).credit(batch, models)
