"""evol_rl: the bands of its rewards, and where it is ttrl."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.group import group_mean, group_std
from autodidact.credits.novelty import embeddings, novelty
from autodidact.methods.evol_rl import evol_rl
from autodidact.methods.ttrl import ttrl
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import perturb, toy_task


def final(text: str) -> str | None:
    number = sum(text.encode()) % 4
    return None if number == 3 else "abc"[number]


@pytest.fixture
def case(qwen):
    """Models and eight groups of six rows, with rows of every kind."""
    models, task = Models(qwen), replace(toy_task(8), final=final)
    batch = evol_rl(6, 6, keep=6).rollout(task.train, models, task, 0)
    assert set(batch.take("majority").tolist()) == {-1.0, 0.0, 1.0}
    return models, batch


def test_the_bands_never_cross(case):
    models, batch = case
    reward = evol_rl(6, 6, keep=6).credit(batch, models).take("reward")
    side = batch.take("majority")
    bands = {1.0: (0.5, 1.0), 0.0: (-1.0, -0.5), -1.0: (-1.0, -1.0)}
    for kind, (low, high) in bands.items():
        mine = reward[side == kind]
        assert low <= mine.min() and mine.max() <= high
        assert kind == -1 or (mine.min() == low and mine.max() == high), "ends are reached"


def test_the_reward_is_the_side_and_half_the_novelty(case):
    models, batch = case
    reward = evol_rl(6, 6, keep=6).credit(batch, models).take("reward")
    side = batch.take("majority")
    fresh = novelty(embeddings(batch, models), batch.group, side)
    for row in range(len(batch)):
        base = {1.0: 0.5, 0.0: -1.0, -1.0: -1.0}[float(side[row])]
        assert float(reward[row]) == pytest.approx(base + float(fresh[row]) / 2, abs=1e-6)


def test_rows_alone_and_rows_that_say_the_same(case):
    """1 and -0.5 where a row is alone on its side; 0.75 and -0.75 where all are equal."""
    models, batch = case
    four = batch.select([0, 0, 1, 1])
    four = replace(four, group=torch.zeros(4, dtype=torch.long))

    def rewards(*sides: float) -> list[float]:
        marked = four.put(majority=torch.tensor(sides, dtype=torch.float32))
        return evol_rl(6, 6, keep=6).credit(marked, models).take("reward").tolist()

    assert rewards(1, 1, 0, 0) == [0.75, 0.75, -0.75, -0.75]
    assert rewards(1, -1, 0, -1) == [1.0, -1.0, -0.5, -1.0]
    assert rewards(-1, -1, -1, 1) == [-1.0, -1.0, -1.0, 1.0]


def test_it_follows_the_rows_in_any_order(case):
    models, batch = case
    method = evol_rl(6, 6, keep=6)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    found = method.credit(batch.select(order), models).take("advantage")
    assert torch.allclose(found, method.credit(batch, models).take("advantage")[order], rtol=1e-6)


def test_the_frozen_initial_weights_embed(case):
    models, batch = case
    method = evol_rl(6, 6, keep=6)
    before = method.credit(batch, models).take("reward")
    perturb(models.policy, 0.3)
    assert torch.equal(method.credit(batch, models).take("reward"), before)


def test_of_equal_novelty_and_all_answered_the_advantages_are_those_of_ttrl(case):
    """Rewards of two values have the same standard scores: (R - mean) / (std + eps / 1.5)."""
    models, batch = case
    side = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0]).repeat(8)
    # All rows of a group say what its first says.
    first = torch.arange(len(batch)) // 6 * 6
    batch = replace(batch.select(first.tolist()), group=batch.group)
    batch = batch.put(majority=side, reward=side)
    found = evol_rl(6, 6, keep=6).credit(batch, models)
    usual = ttrl(6, 6, keep=6).credit(batch, models)
    exact = (side - group_mean(side, batch.group)) / (group_std(side, batch.group) + 1e-4 / 1.5)
    assert torch.allclose(found.take("advantage"), exact[:, None] * found.own, rtol=1e-5)
    assert torch.allclose(found.take("advantage"), usual.take("advantage"), rtol=1e-4)
    assert usual.take("advantage").any()


def test_the_loss_is_that_of_ttrl_with_a_bonus_for_entropy(case):
    models, batch = case
    options = {"keep": 6, "clip": 0.1, "clip_high": 0.3, "kl": 0.1}
    ours, base = evol_rl(6, 6, entropy=0.2, **options), ttrl(6, 6, **options)
    batch = ours.credit(batch, models)
    perturb(models.policy)
    scores = models.scores(ours.views(batch, models), batch)
    expected = base.loss(scores, batch) - 0.2 * scores["policy"].entropy
    assert torch.allclose(ours.loss(scores, batch)[batch.own], expected[batch.own], rtol=1e-9)
    assert torch.equal(ours.weigh(batch), base.weigh(batch))


def test_a_task_without_answers_runs(qwen):
    task = replace(toy_task(), final=final, correct=None, reward=None)
    task = replace(task, train=[replace(p, answer=None) for p in task.train])
    training = Training(evol_rl(4, 5, keep=4), Models(qwen), task, Run(steps=2, rows=16))
    lines = [training.advance()[1] for _ in range(2)]
    training.close()
    assert all(line["grad_norm"] > 1e-4 and not line["skipped"] for line in lines)


def test_the_weights_that_embed_are_kept_without_kl_too(case):
    """A run makes the roles of the credit before its first update, and before it is resumed."""
    models, batch = case
    method = evol_rl(6, 6, keep=6, kl=0.0)
    assert set(method.views(batch, models)) == {"policy"} and method.roles == ("initial",)
    Training(method, models, toy_task(), Run(steps=1, rows=6))
    models.ledger.optimizer_steps = 3
    assert method.credit(batch, models).take("reward").isfinite().all()


def test_one_row_is_no_group():
    with pytest.raises(ValueError, match="keep=1"):
        evol_rl(keep=1)
