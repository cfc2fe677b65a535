"""rmt: the curriculum, the triangle, which tokens are guessed, and the two terms of the loss."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from autodidact.engine import Drawn
from autodidact.methods.grpo import grpo
from autodidact.methods.rmt import rmt
from autodidact.methods.sft import sft
from autodidact.models import Models
from autodidact.rollouts.given import Given
from autodidact.rollouts.positions import Positions, _pick, budget_at, chances, length_reward
from autodidact.store import Completion
from autodidact.view import plain
from toys import about, random_logits, rows_of, toy_task


def test_the_triangle():
    for budget in (1, 4, 800):
        for share, value in ((0, 0), (0.5, 0.5), (1, 1), (1.25, 0.75), (2, 0), (2.5, 0), (9, 0)):
            assert length_reward(share * budget, budget) == pytest.approx(value, abs=1e-12)


def test_budgets_shrink_to_one():
    assert [budget_at(t, 800, 0.2) for t in (0, 0.5, 1)] == [800, 357, 160]
    assert budget_at(1, 3, 0.2) == 1 and budget_at(0.7, 5, 1.0) == 5


def test_chances_of_tiers_are_a_law_that_moves_without_jumps():
    steps = [chances(k / 1000) for k in range(1001)]
    assert all(sum(each) == pytest.approx(1, abs=1e-12) and min(each) >= 0 for each in steps)
    paths = torch.tensor(steps, dtype=torch.float64)
    assert (paths[1:] - paths[:-1]).abs().max() < 1e-3
    assert steps[0] == steps[300] and steps[1000] == pytest.approx(steps[700])
    assert torch.allclose(paths[500], (paths[0] + paths[1000]) / 2, atol=1e-12)
    assert steps[0][0] > steps[1000][0] and steps[0][2] < steps[1000][2]


def test_a_tier_is_picked_by_chance_and_its_positions_alike():
    columns, tiers, law = [3, 5, 6, 9], [0, 0, 1, 2], (0.5, 0.3, 0.2)
    grid = 1000
    found = Counter(_pick(columns, tiers, law, (k + 0.5) / grid) for k in range(grid))
    assert found == {3: 250, 5: 250, 6: 300, 9: 200}
    without = Counter(_pick([3, 9], [0, 2], law, (k + 0.5) / 700) for k in range(700))
    assert without == {3: 500, 9: 200}, "an empty tier is left out"


def test_guessed_tokens_and_the_rest_are_the_text_and_share_nothing(qwen):
    task, models = toy_task(6), Models(qwen)
    batch = Positions(2, 3, 4)(task.train, models, task, 3)
    whole = Given()(task.train, Models(qwen), task, 3)
    texts = (batch.take("kind") == 0).nonzero().flatten().tolist()
    width = whole.ids.shape[1]
    assert torch.equal(batch.ids[texts, :width] * whole.real, whole.ids * whole.real)
    hidden = whole.own & ~batch.own[texts, :width]
    assert hidden.sum(1).tolist() == [3] * 6
    for row, problem in enumerate(task.train):
        prompt = len(qwen.render(task.prompt(problem)))
        guesses = [
            i for i in range(len(batch)) if batch.rows[i] == problem and batch.take("kind")[i] == 1
        ]
        assert len(guesses) == 6
        told = set()
        for i in guesses:
            read = qwen.decode(batch.ids[i][batch.real[i] & ~batch.own[i]].tolist())
            told.add(read.split("\n")[1])
        places = (hidden[row].nonzero().flatten() - prompt).tolist()
        assert told == {problem.solution[:place] for place in places}, "the text before each"
    assert len(batch.group.unique()) == 6 * 3 + 6
    assert not hidden[whole.ids == qwen.end].any(), "the end is no token to guess"


def test_positions_follow_the_entropy_of_the_policy_in_thirds(qwen, monkeypatch):
    """With all the chance on one tier only its third of the text is ever asked about."""
    task = toy_task(6)
    texts = Given()(task.train, Models(qwen), task, 3)
    with torch.no_grad():
        entropy = Models(qwen).score(plain(texts), texts).entropy
    for tier in range(3):
        law = tuple(float(k == tier) for k in range(3))
        monkeypatch.setattr("autodidact.rollouts.positions.TIERS", (law, law))
        for seed in range(4):
            batch = Positions(1, 1, 2)(task.train, Models(qwen), task, seed)
            own = batch.own[batch.take("kind") == 0][:, : texts.ids.shape[1]]
            for row, hidden in enumerate(texts.own & ~own):
                fit = texts.own[row] & (texts.ids[row] != qwen.end)
                rank = int((entropy[row][fit] < entropy[row][hidden]).sum())
                assert 3 * rank // int(fit.sum()) == tier


def test_the_text_carries_what_the_policy_says_and_reading_it_has_its_price(qwen):
    task, models = toy_task(3), Models(qwen)
    batch = Positions(2, 1, 4)(task.train, models, task, 3)
    with torch.no_grad():
        logp = Models(qwen).score(plain(batch), batch).logp
    for name in ("raw", "logp"):
        assert torch.allclose(batch.take(name)[batch.own], logp[batch.own].float(), atol=1e-5)
    assert models.ledger.teacher_forward == int(Given()(task.train, models, task, 3).real.sum())


class Says:
    """An engine that writes the same guesses about every token."""

    name = "says"

    def __init__(self, texts):
        self.texts, self.asked = texts, []

    def draw(self, lm, requests, law, seed):
        made = []
        for request in requests:
            self.asked.append((lm.decode(request.prompt), request.length))
            ids = lm.encode(self.texts[request.sample])[: request.length]
            made.append(Completion(ids, [-1.0] * len(ids), [-1.0] * len(ids), True))
        return Drawn(made, 0)


def test_rewards_of_guesses_by_hand(qwen):
    task = toy_task(1)
    task = replace(task, train=[replace(task.train[0], solution="77")])
    engine = Says(["ab Next: 7", "abcdNext:7", "Next:7 no Next:8", "abcdefgh7", "Next:"])
    models = Models(qwen, engine=engine)
    batch = Positions(5, 1, 4, 0.5, 0.2, over=10)(task.train, models, task, 0)
    assert batch.take("matched").tolist()[:5] == [1, 1, 0, 0, 0]
    assert batch.take("thought").tolist()[:5] == [3, 4, 10, 9, 0]
    expected = [0.8 + 0.2 * 0.75, 1.0, 0.0, 0.0, 0.0]
    assert batch.take("reward").tolist()[:5] == pytest.approx(expected)
    assert float(batch.take("reward")[5]) == pytest.approx(sum(expected) / 5), "the text's: a mean"
    prompt, length = engine.asked[0]
    assert "about 4 tokens" in prompt and "write Next: and" in prompt and length == 8 + 5 + 4
    models.ledger.optimizer_steps = 10
    Positions(5, 1, 4, 0.5, 0.2, over=10)(task.train, models, task, 0)
    assert "about 2 tokens" in engine.asked[-1][0] and engine.asked[-1][1] == 4 + 5 + 4


def test_without_text_and_length_it_is_grpo_on_matches(qwen):
    """RPT: the same rows, advantages, weights and loss as `grpo` with the reward of a match."""
    task = toy_task(4)
    method = rmt(n=3, positions=2, budget=3, ntp=0.0, weight=0.0)
    batch = method.rollout(task.train, Models(qwen), task, 3)
    assert (batch.take("kind") == 1).all() and len(batch) == 4 * 2 * 3 == 4 * method.rollout.n
    assert torch.equal(batch.take("reward"), batch.take("matched"))
    batch = batch.put(reward=torch.arange(len(batch)) % 3 % 2 * 1.0)
    peer = grpo(n=3)
    one, other = method.credit(batch, None), peer.credit(batch, None)
    assert torch.equal(one.take("advantage"), other.take("advantage"))
    assert torch.allclose(method.weigh(one), peer.weigh(other), rtol=1e-6)
    scores = {"policy": about(one, random_logits(int(one.own.sum()), qwen.head().words))}
    losses = [m.loss(scores, b)[b.own] for m, b in ((method, one), (peer, other))]
    assert torch.equal(*losses)


def test_the_two_terms_are_grpo_and_the_likelihood_of_the_text():
    batch = rows_of([3, 2, 4, 1], [1.0, 0.0, 0.5, 0.5], kind=[1.0, 1.0, 0.0, 0.0])
    batch = replace(batch, group=torch.tensor([0, 0, 1, 2]))
    method = rmt(n=2, ntp=0.3)
    logits = random_logits(10, 3)
    scores = about(batch, logits)
    batch = method.credit(batch.put(raw=scores.logp.detach() - 0.1), None)
    values = method.loss({"policy": scores}, batch) * method.weigh(batch)
    guesses, texts = batch.select([0, 1]), batch.select([2, 3])
    peer = grpo(n=2)
    told = {"policy": about(guesses, logits[:5])}
    expected = (peer.loss(told, guesses) * peer.weigh(guesses)).sum()
    assert torch.allclose(values[:2].sum(), expected, rtol=1e-6)
    read = {"policy": about(texts, logits[5:])}
    likely = (sft().loss(read, texts) * sft().weigh(texts)).sum()
    assert torch.allclose(values[2:].sum(), 0.3 * likely, rtol=1e-6)


def test_short_texts_have_fewer_positions(qwen):
    task = toy_task(2)
    rows = [replace(task.train[0], solution="7"), replace(task.train[1], solution=" ")]
    batch = Positions(2, 3, 2)(rows, Models(qwen), task, 0)
    assert batch.take("kind").tolist() == [1, 1, 0, 0]
    assert batch.own[3].sum() == 2 and batch.own[2].sum() == 1
    blank = Positions(2, 3, 2)(rows[1:], Models(qwen), task, 0)
    assert blank.take("kind").tolist() == [0] and blank.own.sum() == 2


def test_what_cannot_be_asked_for():
    for call, message in (
        ({"n": 1}, "n=1"), ({"ntp": -1.0}, "ntp=-1"), ({"shrink": 0.0}, "shrink=0.0"),
        ({"weight": 2.0}, "weight=2.0"), ({"marker": ""}, "marker=''"), ({"over": 0}, "over=0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            rmt(**call)
