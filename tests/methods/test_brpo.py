"""brpo: segments of thinking by hand, what it reduces to, and rows cut at budgets."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from autodidact.credits.budgets import budget_relative, prior_of
from autodidact.engine import Drawn
from autodidact.law import Law
from autodidact.methods.brpo import brpo
from autodidact.methods.dr_grpo import dr_grpo
from autodidact.models import Models
from autodidact.rollouts.budgets import Budgets, thinking
from autodidact.rollouts.sample import Sample
from autodidact.store import Completion
from toys import about, random_logits, rows_of, toy_task

REWARDS = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.25, 0.0], [1.0, 0.0, 0.75]], dtype=torch.float64)
GROUP = torch.zeros(3, dtype=torch.long)


def by_loops(rewards, prior, baseline="both"):
    """The card's formula, term by term."""
    count, found = len(prior), []
    returns = [
        [sum(prior[j] * row[j] for j in range(s, count)) for s in range(count)] for row in rewards
    ]
    for row, coming in zip(rewards, returns, strict=True):
        found.append([])
        for s in range(count):
            past = sum(2**j * row[j] for j in range(s)) / max(1, sum(2**j for j in range(s)))
            v1 = past * sum(prior[s:]) if s else 0.0
            v2 = sum(other[s] for other in returns) / len(returns)
            share = s / count if baseline == "both" else 0.0
            found[-1].append(coming[s] - (share * v1 + (1 - share) * v2))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("baseline", ["both", "others"])
@pytest.mark.parametrize("kind", ["last", "uniform", "linear"])
def test_advantages_are_the_formula(kind, baseline):
    prior = prior_of(kind, (2, 3, 5))
    found = budget_relative(REWARDS, prior, GROUP, baseline)
    expected = by_loops(REWARDS.tolist(), prior.tolist(), baseline)
    assert torch.allclose(found, expected, atol=1e-12)


def test_priors_are_laws_over_budgets():
    assert prior_of("last", (2, 3, 5)).tolist() == [0, 0, 1]
    assert prior_of("uniform", (2, 6)).tolist() == [0.5, 0.5]
    assert prior_of("linear", (2, 6)).tolist() == [0.25, 0.75]


def test_the_first_segment_sums_to_zero_over_the_group_and_one_budget_is_centred():
    prior = prior_of("uniform", (2, 3, 5))
    found = budget_relative(REWARDS, prior, GROUP)
    assert float(found[:, 0].sum()) == pytest.approx(0, abs=1e-12)
    assert found[:, 2].sum().abs() > 0.01, "later ones are compared with the row's own past"
    one = budget_relative(REWARDS[:, :1], prior_of("uniform", (4,)), GROUP)
    assert torch.allclose(one, REWARDS[:, :1] - REWARDS[:, :1].mean(), atol=1e-12)


def test_all_on_the_last_budget_and_the_others_alone_is_the_centred_last_reward():
    found = budget_relative(REWARDS, prior_of("last", (2, 3, 5)), GROUP, "others")
    last = REWARDS[:, 2] - REWARDS[:, 2].mean()
    assert torch.allclose(found, last[:, None].expand(3, 3), atol=1e-12)


def test_the_past_of_a_row_is_no_bias_for_the_next_segment():
    """E[V1 grad log p] = 0 by enumeration: the segment's tokens come after what V1 is made of."""
    logits = random_logits(2, 3)
    chance = logits.softmax(-1)
    total = torch.zeros(2, 3, dtype=torch.float64)
    for first, second in product(range(3), repeat=2):
        reward = torch.tensor([[float(first == 1), float(first == second)]] * 2).double()
        with_past, without = (
            budget_relative(reward, prior_of("uniform", (1, 2)), GROUP[:2], kind)[0, 1]
            for kind in ("both", "others")
        )
        # Both rows are the same here: V2 is Ret itself, and what is left is V1 - V2, halved.
        past = with_past - without - reward[0, 1] / 4
        score = torch.autograd.grad(chance[1, second].log(), logits, retain_graph=True)[0]
        total += (chance[0, first] * chance[1, second] * past).detach() * score
        assert past == -0.25 * reward[0, 0]
    assert torch.allclose(total, torch.zeros_like(total), atol=1e-12)


# ------------------------------------------------------------------ the method


def drawn_rows(cuts, early=None):
    """Three traces of as many tokens as the last budget (one shorter), two summaries a cut."""
    lengths, trace, cut, budget = [], [], [], []
    for row in range(3):
        own = early if early is not None and row == 1 else cuts[-1]
        spans = [1 + sum(each <= place for each in cuts) for place in range(own)]
        lengths.append(own)
        trace.append(row), cut.append(-1), budget.extend(spans)
        for number in range(max(spans)):
            for size in (2, 1):
                lengths.append(size)
                trace.append(row), cut.append(number), budget.extend([0] * size)
    batch = rows_of(lengths, budget=budget)
    streams = {"trace": torch.tensor(trace), "cut": torch.tensor(cut)}
    batch = batch.put(budget=batch.take("budget").long(), **streams)
    reward = torch.arange(len(batch), dtype=torch.float64) * 7 % 5 / 4
    return batch.put(reward=reward)


def test_one_budget_is_dr_grpo_of_the_thinking():
    """The same advantages, weights and gradient as `dr_grpo` on the rows of traces."""
    batch = drawn_rows((4,))
    method, peer = brpo(n=3, budgets="4", summaries=2), dr_grpo(n=3, length=4)
    credited = method.credit(batch, None)
    trace = thinking(batch)
    means = [float(batch.take("reward")[3 * i + 1 : 3 * i + 3].mean()) for i in range(3)]
    alone = batch.select(trace.nonzero().flatten().tolist())
    alone = peer.credit(alone.put(reward=torch.tensor(means, dtype=torch.float64)), None)
    mine = credited.select(trace.nonzero().flatten().tolist())
    assert torch.allclose(mine.take("advantage"), alone.take("advantage"), atol=1e-12)
    weights = method.weigh(credited)[trace][:, : mine.ids.shape[1]]
    assert torch.allclose(weights, peer.weigh(alone), atol=1e-12)
    logits = random_logits(12, 3)
    scores = {"policy": about(mine, logits)}
    raw = scores["policy"].logp.detach() - 0.3
    losses = [m.loss(scores, b.put(raw=raw)) for m, b in ((method, mine), (peer, alone))]
    assert torch.allclose(*losses, atol=1e-12)


def test_a_trace_that_ends_early_uses_its_last_cut_for_the_later_ones():
    cuts = (2, 4, 6)
    batch = drawn_rows(cuts, early=3)
    found = brpo(n=3, budgets="2,4,6", summaries=2).credit(batch, None)
    trace, reward = thinking(batch), batch.take("reward")
    table = []
    for number in range(3):
        mine = (batch.take("trace") == number) & ~trace
        rows = [reward[mine & (batch.take("cut") == s)] for s in range(3)]
        means = [float(each.mean()) for each in rows if len(each)]
        table.append(means + [means[-1]] * (3 - len(means)))
    expected = by_loops(table, [1 / 3] * 3)
    for row, worth in zip(trace.nonzero().flatten().tolist(), expected, strict=True):
        own = found.take("advantage")[row][batch.own[row]]
        segments = batch.take("budget")[row][batch.own[row]] - 1
        assert torch.allclose(own, worth[segments], atol=1e-12)
    assert [len(r) for r in table] == [3, 3, 3] and table[1][1] == table[1][2]


def test_summaries_are_compared_with_those_of_their_own_cut():
    batch = drawn_rows((2, 4))
    found = brpo(n=3, budgets="2,4", summaries=2).credit(batch, None).take("advantage")
    reward, pairs = batch.take("reward"), (~thinking(batch)).nonzero().flatten().view(-1, 2)
    for one, other in pairs.tolist():
        gap = float(reward[one] - reward[other]) / 2
        assert found[one][batch.own[one]].tolist() == pytest.approx([gap] * 2, abs=1e-12)
        assert found[other][batch.own[other]].tolist() == pytest.approx([-gap], abs=1e-12)


# ------------------------------------------------------------------ rows cut at budgets


def test_traces_are_draws_of_sample_and_summaries_read_their_beginnings(qwen):
    task, models = toy_task(6), Models(qwen)
    law = Law(0.9)
    rollout = Budgets(2, (2, 4, 6), 2, 5, "\n=", "", law)
    batch = rollout(task.train, models, task, 3)
    plainly = Sample(2, 6, law)(task.train, Models(qwen), task, 3)
    trace, after = thinking(batch), list(qwen.encode("\n=")[:-1])
    rows = trace.nonzero().flatten().tolist()
    whole = [batch.ids[r][batch.own[r]].tolist() for r in rows]
    assert whole == [plainly.ids[r][plainly.own[r]].tolist() for r in range(len(plainly))]
    drawn, early, seen = sum(map(len, whole)), 0, set()
    for index, row in enumerate(rows):
        own, last = whole[index], rows[index + 1] if index + 1 < len(rows) else len(batch)
        ended = batch.take("finished")[row] == 1
        cuts = batch.take("cut")[row + 1 : last].tolist()
        reached = next(s for s, b in enumerate((2, 4, 6)) if b >= len(own))
        assert cuts == [s for s in range(reached + 1) for _ in range(2)]
        early += reached < 2
        spans = [1 + sum(place >= b for b in (2, 4, 6)) for place in range(len(own))]
        assert batch.take("budget")[row][batch.own[row]].tolist() == spans
        for told in range(row + 1, last):
            size = min((2, 4, 6)[cuts[told - row - 1]], len(own) - int(ended))
            prompt = qwen.render(task.prompt(batch.rows[row]))
            ids = batch.ids[told][batch.real[told]].tolist()
            assert ids[: len(prompt) + size + 2] == prompt + own[:size] + after
            mine = batch.own[told][batch.real[told]].tolist()
            assert mine == [False] * (len(prompt) + size + 2) + [True] * (
                len(ids) - mine.index(True)
            )
            drawn += mine.count(True)
            seen.add(tuple(ids))
            text = qwen.decode(ids[len(prompt) :])
            assert float(batch.take("reward")[told]) == task.score([task.train[0]], [text])[0]
        mean = batch.take("reward")[row + 1 : last].mean()
        assert float(batch.take("reward")[row]) == pytest.approx(float(mean), abs=1e-6)
    assert early and models.ledger.generated == drawn
    assert len(seen) > len(batch) // 2, "summaries of one cut are draws of their own"


class Says:
    """An engine that thinks the same for every prompt, and answers 1 where thinking was cut."""

    name = "says"

    def draw(self, lm, requests, law, seed):
        made = []
        for request in requests:
            begun = lm.decode(request.begun)
            thought = "so</think> then 7"[len(begun) : len(begun) + request.length]
            ids = lm.encode("1")[:-1] if begun.endswith("?") else lm.encode(thought)[:-1]
            made.append(Completion(ids, [-1.0] * len(ids), [-1.0] * len(ids), False))
        return Drawn(made, 0)


def test_thinking_stops_at_its_own_mark_which_summaries_do_not_read(qwen):
    task = toy_task(1)
    rollout = Budgets(1, (4, 14, 40), 1, 5, "?", "</think>")
    batch = rollout(task.train, Models(qwen, engine=Says()), task, 0)
    start = len(qwen.render(task.prompt(task.train[0])))
    texts = [
        qwen.decode(batch.ids[r, start : int(batch.real[r].sum())].tolist())
        for r in range(len(batch))
    ]
    assert texts == ["so</think>", "so?1", "so?1"]
    assert batch.take("cut").tolist() == [-1, 0, 1]


def test_what_cannot_be_asked_for():
    with pytest.raises(ValueError, match="budgets='4,x'"):
        brpo(budgets="4,x")
    with pytest.raises(ValueError, match="increasing"):
        brpo(budgets="4,4")
    with pytest.raises(ValueError, match="after=''"):
        brpo(after="")
    with pytest.raises(ValueError, match="n=1"):
        brpo(n=1)
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        brpo(prior="liner")
    with pytest.raises(ValueError, match="did you mean 'others'"):
        budget_relative(REWARDS, prior_of("last", (1, 2, 3)), GROUP, "other")
    assert replace(brpo(budgets="8,16")).rollout.n == 8 * (1 + 2 * 4)
