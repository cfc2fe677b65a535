"""tempo: what a branch of the tree changes, by all of its identities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.credits.group import group_mean, group_std
from autodidact.credits.prefix import node_means, prefixes
from autodidact.grade import grade
from autodidact.learn import learn
from autodidact.methods.dapo import dapo
from autodidact.methods.tempo import tempo
from autodidact.models import Models
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.tree import Tree
from autodidact.run import Run
from toys import rows_of, toy_task

EPS = 1e-6


def grove(seed: int, rows: int = 10, words: int = 3):
    """A group that branches, each row of its own length, with random rewards."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 7, (rows,), generator=random).tolist()
    batch = rows_of(lengths, torch.randn(rows, generator=random, dtype=torch.float64))
    ids = torch.randint(words, batch.ids.shape, generator=random)
    ids[:, 0] = 0
    return replace(batch, ids=ids)


def changes(batch) -> torch.Tensor:
    """V(y_<=t) - V(y_<t), of what `tempo` says and the outcome it adds."""
    reward = batch.take("reward")
    advantage = tempo(n=len(batch)).credit(batch, None).take("advantage")
    outcome = reward - group_mean(reward, batch.group)
    scale = group_std(reward, batch.group) + EPS
    return (advantage * scale[:, None] - outcome[:, None]) * batch.own


@pytest.mark.parametrize("seed", range(4))
def test_the_changes_of_a_row_that_ends_alone_sum_to_its_outcome(seed):
    batch = grove(seed)
    reward = batch.take("reward")
    node = prefixes(batch).node
    last = node.gather(1, batch.real.sum(1, keepdim=True) - 1).squeeze(1)
    alone = torch.tensor([int((node == number).any(1).sum()) == 1 for number in last])
    outcome = reward - reward.mean()
    assert alone.sum() >= 3
    assert torch.allclose(changes(batch).sum(1)[alone], outcome[alone], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_changes_at_a_node_sum_to_zero_over_the_rows_that_go_on_from_it(seed):
    batch = grove(seed)
    tree, found = prefixes(batch), changes(batch)
    branches = 0
    for number in tree.parent[batch.own].unique().tolist():
        here = batch.own & (tree.parent == number)
        # A row that ends at the node pulls its value, and goes nowhere.
        if int(here.sum()) == int((tree.node == number).any(1).sum()):
            assert abs(float(found[here].sum())) < 1e-12
            branches += int(here.sum() > 1)
    assert branches >= 2


def test_equal_prefixes_have_equal_changes_and_off_branches_there_is_none():
    batch = grove(0)
    tree, found = prefixes(batch), changes(batch)
    rows = {n: (tree.node == n).any(1) for n in tree.node[batch.real].unique().tolist()}
    for number, here in rows.items():
        at = batch.own & (tree.node == number)
        assert not at.any() or float(found[at].max() - found[at].min()) < 1e-12
        for parent in tree.parent[at].unique().tolist():
            if parent in rows and torch.equal(rows[parent], here):
                assert found[at].abs().max() < 1e-12


def test_where_all_first_tokens_differ_the_first_has_it_all():
    """A_i0 = 2 (R_i - mean R) / s, and from then on that of `dapo`."""
    batch = rows_of([3, 2, 4], [1.0, 0.0, 0.25])
    batch = replace(batch, ids=torch.cat([torch.zeros(3, 1).long(), batch.ids[:, 1:]], 1))
    assert len(set(batch.ids[:, 1].tolist())) == 3
    reward = batch.take("reward")
    usual = (reward - reward.mean()) / (reward.std() + EPS)
    found = tempo(n=3).credit(batch, None).take("advantage")
    assert torch.allclose(found[:, 1], 2 * usual, rtol=1e-12)
    rest = batch.own.clone()
    rest[:, 1] = False
    assert torch.allclose(found[rest], usual[:, None].expand_as(found)[rest], rtol=1e-12)


def test_a_small_tree_by_hand():
    """Rows 11, 10, 0 with rewards 1, 0, 0: V is 1/3 at the root, 1/2 after 1."""
    batch = rows_of([2, 2, 1], [1.0, 0.0, 0.0])
    batch = replace(batch, ids=torch.tensor([[2, 1, 1], [2, 1, 0], [2, 0, 0]]))
    found = tempo(n=3).credit(batch, None).take("advantage") * (math.sqrt(1 / 3) + EPS)
    third, sixth = 1 / 3, 1 / 6
    expected = [
        [0.0, 2 * third + sixth, 2 * third + 0.5], [0.0, -third + sixth, -third - 0.5],
        [0.0, -third - third, 0.0],
    ]  # fmt: skip
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_rows_without_a_reward_earn_nothing_and_change_no_value():
    batch = grove(1)
    reward = batch.take("reward").clone()
    reward[4] = math.nan
    found = tempo().credit(batch.put(reward=reward), None).take("advantage")
    rest = [row for row in range(len(batch)) if row != 4]
    alone = tempo().credit(batch.select(rest), None).take("advantage")
    assert not found[4].any()
    assert torch.allclose(found[rest][:, : alone.shape[1]], alone, rtol=1e-12, atol=1e-15)


def test_a_node_value_is_what_the_credit_uses():
    batch = grove(2)
    after, before = node_means(prefixes(batch), batch.take("reward"))
    assert torch.allclose(changes(batch), (after - before) * batch.own, atol=1e-12)


def test_clips_weights_and_rollout_are_those_of_dapo():
    batch = grove(0)
    assert torch.equal(tempo().weigh(batch), dapo().weigh(batch))
    waves = tempo(n=4, length=6, waves=2)
    assert isinstance(waves.rollout, WithSpread)
    assert waves.loss.__self__ == dapo().loss.__self__


def test_it_learns_from_trees_that_were_drawn_as_such(qwen):
    """What leaves share is one node of the credit, too; the branches are told apart."""
    task, models = toy_task(), Models(qwen)
    method = replace(tempo(n=4, length=6), rollout=Tree(2, (2, 4), 6))
    batch = grade(method.rollout(task.train, models, task, 0), models)
    found = method.credit(batch, models).take("advantage")
    drawn, tree = batch.take("node"), prefixes(batch)
    for number in drawn[batch.own].unique().tolist():
        for column in range(batch.ids.shape[1]):
            here = batch.own[:, column] & (drawn[:, column] == number)
            assert len(tree.node[here, column].unique()) <= 1
    assert found.abs().max() > 0.1
    optimizer = torch.optim.SGD(qwen.model.parameters(), lr=0.1)
    measured = learn(method, models, batch, optimizer, Run(steps=1, rows=len(batch)))
    assert measured["grad_norm"] > 1e-3 and not measured["skipped"]


def test_one_answer_is_no_tree():
    with pytest.raises(ValueError, match="n=1"):
        tempo(n=1)
