"""capo: the table of four values, votes as sets, and critics of arithmetic and of one's own."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.batch import batch_of
from autodidact.credits.judge import Judge, fined, voted
from autodidact.credits.steps import Steps
from autodidact.engine import Drawn
from autodidact.methods.capo import capo
from autodidact.methods.grpo import grpo
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.store import Completion
from autodidact.tasks.steps import wrong
from toys import about, random_logits, toy_task

VOTES = ("intersection", "majority", "union", "average")


def written(lm, texts, rewards):
    """Completions of one problem, all in one group."""
    task = toy_task(1)
    problem = task.train[0]
    prompt = lm.render(task.prompt(problem))
    ids = [lm.encode(text) for text in texts]
    batch = batch_of(
        [problem] * len(texts), [prompt] * len(texts), ids, task, group=[0] * len(texts)
    )
    return batch.put(reward=torch.tensor(rewards, dtype=torch.float64))


def test_the_four_values():
    own = torch.tensor([[False, True, True]] * 2)
    wrong = torch.tensor([[1.0, 0.0, 1.0]] * 2)
    found = fined(torch.tensor([1.0, 0.0]), wrong, own)
    assert found.tolist() == [[0, 2, 1], [0, 0, -1]]


def test_advantages_are_normalised_over_all_tokens_of_the_group(qwen):
    texts = ["1+1=2\n2+1=4", "1+1=3", "7"]
    batch = written(qwen, texts, [1.0, 0.0, 1.0])
    found = capo(n=3).credit(batch, Models(qwen)).take("advantage")
    sizes = [(6, 2.0), (6, 1.0), (6, -1.0), (2, 2.0)]  # the end token closes the last step
    values = [worth for size, worth in sizes for _ in range(size)]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    expected = [(v - mean) / (std + 1e-4) for v in values]
    assert found[batch.own].tolist() == pytest.approx(expected, abs=1e-12)
    assert float(found[batch.own].sum()) == pytest.approx(0, abs=1e-9)
    assert not found[~batch.own].any()


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_without_fines_it_is_grpo_up_to_the_standard_deviation(qwen, normalise):
    """Equal lengths: the same direction, and std (of n) in the place of that of n - 1."""
    batch = written(qwen, ["1+1=3", "2+2=4", "3*3=9"], [1.0, 0.0, 0.25])
    mine = capo(n=3, length=9, fine=0.0, right=1.0, normalise=normalise)
    peer = grpo(n=3, length=9, normalise=normalise)
    one, other = mine.credit(batch, Models(qwen)), peer.credit(batch, None)
    std = batch.take("reward").std()
    factor = (std + 1e-4) / (std * math.sqrt(2 / 3) + 1e-4)
    assert torch.allclose(one.take("advantage"), factor * other.take("advantage"), atol=1e-9)
    logits = random_logits(int(batch.own.sum()), qwen.head().words)
    scores = {"policy": about(batch, logits)}
    raw = scores["policy"].logp.detach() - 0.1 * torch.arange(3)[:, None]
    losses = [
        (m.loss(scores, b.put(raw=raw)) * m.weigh(b)).sum().detach()
        for m, b in ((mine, one), (peer, other))
    ]
    assert float(losses[0]) == pytest.approx(float(factor * losses[1]), rel=1e-6)
    right = capo(n=3, length=9, normalise=normalise).credit(
        written(qwen, ["1+1=2", "2+2=4", "3*3=9"], [1.0, 0.0, 0.25]), Models(qwen)
    )
    doubled = capo(n=3, length=9, fine=0.0).credit(batch, Models(qwen))
    assert torch.allclose(right.take("advantage"), doubled.take("advantage")), "no wrong step"


def test_votes_are_sets_within_each_other_and_one_critique_makes_them_equal():
    for k in range(1, 7):
        share = torch.arange(k + 1)[None] / k
        found = {vote: voted(share, vote) for vote in VOTES}
        assert (found["intersection"] <= found["majority"]).all()
        assert (found["majority"] <= found["union"]).all()
        assert found["intersection"][0].tolist() == [0.0] * k + [1.0]
        assert found["majority"][0].tolist() == [float(2 * votes >= k) for votes in range(k + 1)]
        assert found["union"][0].tolist() == [0.0] + [1.0] * k
        assert torch.equal(found["average"], share)
        if k == 1:
            assert all(torch.equal(each, share) for each in found.values())


@pytest.mark.parametrize(
    ("step", "is_wrong"),
    [
        ("18*3=54", False), ("18*3=53", True), ("54-5=49.", False), ("3*4+1=12+1=13", False),
        ("3*4+1=12+1=14", True), ("so 2+2 = 5, which leaves 7", True), ("x=3", False),
        ("=12", False), ("1/0=3", False), ("", False), ("9" * 600 + "=1", False),
        ("7/2=3.5", False), ("2 + 2 = 4 and 1 + 1 = 3", True), ("3\u00d74=12", False),
    ],
)  # fmt: skip
def test_arithmetic_finds_equations_whose_sides_differ(step, is_wrong):
    assert wrong(Problem("?"), ["1+1=2", step]) == ([1] if is_wrong else [])


def test_several_critics_vote_and_steps_are_tokens_up_to_their_mark(qwen):
    batch = written(qwen, ["ab\ncde\nf", "abc"], [1.0, 0.0])
    steps = Steps.of(batch, qwen)
    assert steps.texts == (("ab", "cde", "f"), ("abc",))
    critics = "critics:odd, critics:first, critics:nobody"
    found = {vote: Judge(critics, vote=vote).wrong(batch, steps, Models(qwen)) for vote in VOTES}
    own = batch.own
    third = torch.tensor([1 / 3] * 3 + [1 / 3] * 4 + [1 / 3] * 2 + [2 / 3] * 4)
    assert torch.allclose(found["average"][own], third)
    assert not found["intersection"].any() and found["union"][own].all()
    assert found["majority"][own].tolist() == [0.0] * 9 + [1.0] * 4
    assert not any(each[~own].any() for each in found.values())


class Says:
    """An engine that writes its critiques, and keeps what it was asked."""

    name = "says"

    def __init__(self, texts):
        self.texts, self.asked = texts, []

    def draw(self, lm, requests, law, seed):
        self.asked += [lm.decode(request.prompt) for request in requests]
        made = [lm.encode(self.texts[request.sample]) for request in requests]
        return Drawn([Completion(i, [0.0] * len(i), [0.0] * len(i), True) for i in made], 7)


def test_the_policy_is_its_own_critic_and_that_has_its_price(qwen):
    engine = Says(["hm\nwrong: 1\nno\nWrong: 2, 9, 0", "wrong: 1 and 2", "2", "wrong: none 2"])
    models = Models(qwen, engine=engine)
    batch = written(qwen, ["ab\ncd", "e"], [1.0, 0.0])
    found = Judge("self", 4, "average").wrong(batch, Steps.of(batch, qwen), models)
    expected = [0.25] * 3 + [0.75] * 3 + [0.25] * 2
    assert found[batch.own].tolist() == pytest.approx(expected)
    assert models.ledger.generated == 2 * sum(len(qwen.encode(text)) for text in engine.texts)
    assert models.ledger.prefilled == 7
    assert len(engine.asked) == 8
    assert "solution:" in engine.asked[0] and "1: ab\n2: cd" in engine.asked[0]
    assert Judge("self").needs == ("solution",) and Judge("critics:odd").needs == ()
    assert capo(critic="self").needs == ("answer", "solution")


def test_rows_without_a_reward_are_left_out(qwen):
    batch = written(qwen, ["1+1=3", "12", "1+1=2"], [1.0, math.nan, 0.0])
    method = capo(n=3)
    found = method.credit(batch, Models(qwen)).take("advantage")
    alone = method.credit(batch.select([0, 2]), Models(qwen)).take("advantage")
    assert not found[1].any() and torch.allclose(found[[0, 2]], alone)


def test_what_cannot_be_asked_for(qwen):
    for call, message in (
        ({"critic": "arithmetics"}, "did you mean 'arithmetic'"),
        ({"critic": "critics:od"}, "did you mean 'odd'"),
        ({"vote": "most"}, "allowed: intersection, majority"),
        ({"mark": ""}, "mark=''"),
        ({"n": 1}, "n=1"),
        ({"k": 0}, "k=0"),
    ):
        with pytest.raises(ValueError, match=message):
            capo(**call)
    batch = written(qwen, ["ab\ncd"], [1.0])
    with pytest.raises(ValueError, match="calls step 2 wrong, of 2 steps"):
        Judge("critics:beyond").wrong(batch, Steps.of(batch, qwen), Models(qwen))
