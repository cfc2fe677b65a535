"""The tree of prefixes of a group, against comparing every prefix with every other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.batch import Batch
from autodidact.credits.prefix import node_means, prefixes
from toys import padded, renumbered, rows_of


def forest(seed: int, rows: int = 9, words: int = 2) -> Batch:
    """Random rows over few words, in two groups with one prompt each, with random rewards."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (rows,), generator=random).tolist()
    rewards = torch.randn(rows, generator=random, dtype=torch.float64)
    batch = rows_of(lengths, rewards, prompt=2)
    ids = torch.randint(words, batch.ids.shape, generator=random)
    group = torch.arange(rows) % 2
    ids[:, 0], ids[:, 1] = 0, group
    return replace(batch, ids=ids, group=group)


def named(batch: Batch) -> dict[tuple[int, int], tuple[int, ...]]:
    """What names the node of each real token, spelled out: its group and all tokens up to it."""
    return {
        (row, t): (int(batch.group[row]), *batch.ids[row, : t + 1].tolist())
        for row, t in batch.real.nonzero().tolist()
    }


@pytest.mark.parametrize("seed", range(5))
def test_two_columns_are_one_node_where_group_and_prefix_agree(seed):
    batch = forest(seed)
    tree, names = prefixes(batch), named(batch)
    numbers = {place: int(tree.node[place]) for place in names}
    assert len(set(names.values())) == len(set(numbers.values())) < len(names)
    assert len({(names[p], numbers[p]) for p in names}) == len(set(numbers.values()))
    assert min(numbers.values()) > 0 and tree.nodes > max(numbers.values())
    assert not tree.node[~batch.real].any() and not tree.parent[~batch.real].any()


@pytest.mark.parametrize("seed", range(5))
def test_a_parent_is_the_prefix_one_token_shorter_and_first_a_root_of_the_group(seed):
    batch = forest(seed)
    tree, names = prefixes(batch), named(batch)
    roots = {}
    for row, t in names:
        if t:
            assert tree.parent[row, t] == tree.node[row, t - 1]
        else:
            roots.setdefault(int(batch.group[row]), set()).add(int(tree.parent[row, t]))
    assert all(len(each) == 1 for each in roots.values())
    assert roots[0] != roots[1] and not (roots[0] | roots[1]) & set(tree.node.flatten().tolist())


@pytest.mark.parametrize("seed", range(5))
def test_the_value_of_a_node_is_the_mean_reward_of_the_rows_that_begin_so(seed):
    """V(s) = mean {R_j : y_j begins with s}, rows without a reward left out."""
    batch = forest(seed)
    reward = batch.take("reward").clone()
    reward[2] = math.nan
    after, before = node_means(prefixes(batch), reward)
    names = named(batch)

    def value(name: tuple[int, ...]) -> float:
        size = len(name) - 1
        known = [
            float(reward[row])
            for row in range(len(batch))
            if (row, size - 1) in names and names[row, size - 1] == name
        ]
        known = [each for each in known if not math.isnan(each)]
        return sum(known) / len(known) if known else 0.0

    for (row, t), name in names.items():
        mates = [float(reward[j]) for j in range(len(batch)) if batch.group[j] == batch.group[row]]
        root = [each for each in mates if not math.isnan(each)]
        expected = value(name[:-1]) if t else sum(root) / len(root)
        assert float(after[row, t]) == pytest.approx(value(name), abs=1e-12)
        assert float(before[row, t]) == pytest.approx(expected, abs=1e-12)
    assert not after[~batch.real].any() and not before[~batch.real].any()


def test_padding_row_order_and_group_numbers_do_not_matter():
    batch = forest(0)
    expected = node_means(prefixes(batch), batch.take("reward"))
    order = [3, 1, 0, 8, 2, 7, 6, 5, 4]
    width = batch.ids.shape[1]
    for other, rows in ((padded(batch), range(9)), (batch.select(order), order),
                        (renumbered(batch), range(9))):  # fmt: skip
        found = node_means(prefixes(other), other.take("reward"))
        for one, two in zip(found, expected, strict=True):
            assert torch.allclose(one[:, :width], two[list(rows)], rtol=1e-12, atol=1e-15)


def test_a_row_that_another_goes_on_from_is_part_of_its_value():
    batch = rows_of([1, 2], [1.0, 0.0])
    batch = replace(batch, ids=torch.tensor([[0, 1, 0], [0, 1, 2]]))
    after, before = node_means(prefixes(batch), batch.take("reward"))
    assert after.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert before.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.5]]


def test_no_rows_have_no_tree():
    batch = forest(0).select([])
    tree = prefixes(batch)
    after, before = node_means(tree, batch.take("reward"))
    assert tree.node.shape == after.shape == before.shape == (0, 0)


def test_equal_rewards_are_that_value_exactly_in_float32():
    batch = replace(rows_of([2] * 7), ids=torch.tensor([[0, k % 3, k % 2] for k in range(7)]))
    after, before = node_means(prefixes(batch), torch.full((7,), 0.1))
    assert torch.equal(after, before) and (after == torch.tensor(0.1)).all()
