"""poad: discount between turns and nowhere else, so that how an action is split does not matter."""

from __future__ import annotations

import pytest
import torch

from autodidact.batch import batch_of
from autodidact.grade import grade
from autodidact.methods.poad import poad
from autodidact.methods.ppo import ppo
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import perturb, toy_task

GAMMA = 0.7
OPTIONS = {"n": 2, "length": 5, "lam": 0.8, "value_clip": 0.5}
FIRST = {(10,): 0.3, (11, 12): 0.7}
THEN = {(20,): 0.4, (21, 22, 23): 0.6}
EARNED = {(20,): 1.0, (21, 22, 23): 0.5}


def plays(first=FIRST, then=THEN, earned=EARNED, tool=(30, 31)):
    """All ways to play two turns with a tool between them, and how likely each is."""
    ways = [(a, b, p * q, earned[b]) for a, p in first.items() for b, q in then.items()]
    task = toy_task(len(ways))
    batch = batch_of(
        task.train,
        [[2, 3]] * len(ways),
        [[*a, *tool, *b] for a, b, _, _ in ways],
        task,
        own=[[True] * len(a) + [False] * len(tool) + [True] * len(b) for a, b, _, _ in ways],
        tokens={"turn": [[1] * (len(a) + len(tool)) + [2] * len(b) for a, b, _, _ in ways]},
        values={"reward": [reward for *_, reward in ways]},
    )
    turn = batch.take("turn").long()
    return batch.put(turn=turn), torch.tensor([p for *_, p, _ in ways], dtype=torch.float64)


def silent(method, models):
    """The models, whose value head says 0 of everything: returns are then what is earned."""
    with torch.no_grad():
        for weight in models.trained(method.auxiliaries[0]).network.parameters():
            weight.zero_()
    return models


def values_at(batch, chances, method, models, row, column):
    """E[return | the tokens of the row before the column], over all ways to go on."""
    returns = method.credit(batch, silent(method, models)).take("returns")
    same = (batch.ids[:, :column] == batch.ids[row, :column]).all(1)
    return float((chances * same * returns[:, column]).sum() / (chances * same).sum())


def start(method, models, **ways):
    return values_at(*plays(**ways), method, models, 0, 2)


def test_values_of_turns_obey_the_bellman_equation_of_whole_actions(qwen):
    """V(o) = E[r + gamma V(o')], by enumeration, for actions of one to three tokens."""
    models, method = Models(qwen), poad(gamma=GAMMA, lam=1.0)
    batch, chances = plays()
    expected = sum(p * EARNED[a] for a, p in THEN.items())
    second = [
        values_at(batch, chances, method, models, row, int(batch.own[row].nonzero()[len(a)]))
        for row, a in ((0, (10,)), (2, (11, 12)))
    ]
    assert second == pytest.approx([expected, expected], rel=1e-7)
    assert start(method, models) == pytest.approx(GAMMA * expected, rel=1e-7)
    # Discounted at every token the value is off, by gamma^(|a| - 1) for each action.
    naive = sum(
        p * q * GAMMA ** (len(a) + len(b) - 1) * EARNED[b]
        for a, p in FIRST.items() for b, q in THEN.items()
    )  # fmt: skip
    wrong = start(poad(gamma=GAMMA, lam=1.0, discount="token"), models)
    assert wrong == pytest.approx(naive, rel=1e-6) and abs(wrong - GAMMA * expected) > 0.05


def test_a_token_that_is_split_in_two_leaves_values_at_action_starts_as_they_were(qwen):
    models = Models(qwen)
    found = {}
    for discount in ("action", "token"):
        method = poad(gamma=GAMMA, lam=1.0, discount=discount)
        longer = {(10, 13): 0.3, (11, 12): 0.7}
        found[discount] = [start(method, models), start(method, models, first=longer)]
    assert found["action"][0] == pytest.approx(found["action"][1], rel=1e-9)
    assert found["token"][0] - found["token"][1] > 0.01


def test_actions_of_one_token_are_ppo_over_actions(qwen):
    models = Models(qwen)
    one = {"first": {(10,): 0.5, (11,): 0.5}, "then": {(20,): 0.5, (21,): 0.5}}
    batch, _ = plays(**one, earned={(20,): 1.0, (21,): 0.5})
    found = poad(gamma=GAMMA, **OPTIONS).credit(batch, models)
    expected = ppo(gamma=GAMMA, **OPTIONS).credit(batch, models)
    for name in ("advantage", "returns"):
        assert torch.allclose(found.take(name), expected.take(name), atol=1e-12)
    # The tool's answer, however long, is no step.
    short, _ = plays(**one, earned={(20,): 1.0, (21,): 0.5}, tool=())
    method = poad(gamma=GAMMA, **OPTIONS)
    left, right = (method.credit(b, silent(method, models)).take("returns") for b in (batch, short))
    assert torch.equal(left[batch.own], right[short.own])


@pytest.fixture
def case(qwen):
    models, task = Models(qwen), toy_task(6)
    batch = grade(ppo(2, 6).rollout(task.train, models, task, 1), models)
    assert models["initial"]
    perturb(models.policy)
    return models, batch


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({"gamma": 0.7}, {"gamma": 1.0}), ({"gamma": 0.7, "discount": "token"}, {"gamma": 0.7})],
)
def test_one_turn_is_ppo_without_discount_and_the_naive_way_is_ppo_with_it(case, ours, theirs):
    models, batch = case
    one = poad(kl=0.1, **OPTIONS, **ours).credit(batch, models)
    two = ppo(kl=0.1, **OPTIONS, **theirs).credit(batch, models)
    for name in ("advantage", "returns"):
        assert torch.allclose(one.take(name), two.take(name), atol=1e-12)
    assert one.take("advantage").abs().max() > 0.1


def test_a_bonus_for_entropy_is_all_that_the_loss_adds(case):
    models, batch = case
    batch = poad(**OPTIONS).credit(batch, models)
    found = []
    for entropy in (0.0, 0.01):
        method = poad(entropy=entropy, **OPTIONS)
        scores = {k: models.score(v, batch) for k, v in method.views(batch, models).items()}
        found.append(method.loss(scores, batch).detach())
    bonus = 0.01 * models.scores(method.views(batch, models), batch)["policy"].entropy.detach()
    assert torch.allclose(found[0] - found[1], bonus, atol=1e-10) and bonus.max() > 0.01


TOOL = """
def doubt(problem, said):
    return None if len(said) > 3 else " sure? "
"""


def test_a_tool_of_the_user_is_named_by_its_file(qwen, tmp_path):
    (tmp_path / "tools.py").write_text(TOOL)
    method = poad(f"{tmp_path}/tools.py:doubt", n=2, length=3, turns=3, stop="a")
    training = Training(method, Models(qwen), toy_task(4), Run(steps=1, rows=4))
    batch, line = training.advance()
    assert int(batch.take("turn").max()) == 3 and (batch.real & ~batch.own).any()
    assert " sure? " in qwen.decode(batch.ids[0][batch.real[0]].tolist())
    assert line["loss_value"] > 0 and not line["skipped"]
    assert method.rollout.stop == ("a",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool": "nowhere"}, "no import path"),
        ({"tool": "nowhere.py:f"}, "no such file"),
        ({"discount": "actions"}, "did you mean 'action'"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        poad(**options)
