"""Branching rollouts: shared beginnings are drawn once, and every leaf follows the policy's law."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from autodidact.law import Law
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.tree import Tree
from toys import photograph, toy_task


def written(batch, name=None):
    """The ids, or a stream, of each completion."""
    values = batch.ids if name is None else batch.take(name)
    return [each[own].tolist() for each, own in zip(values, batch.own, strict=True)]


def test_a_tree_without_branches_is_a_sample(qwen):
    task, models = toy_task(4), Models(qwen)
    for law in (Law(0.9), Law(top_k=5)):
        tree = photograph(Tree(1, (2, 5), 8, law)(task.train, models, task, 3))
        plain = photograph(Sample(1, 8, law)(task.train, models, task, 3))
        assert set(tree) - set(plain) == {"node", "leaves"}
        assert all(torch.equal(tree[name], plain[name]) for name in plain)


def test_rows_are_leaves_that_share_their_nodes(qwen):
    task, models = toy_task(16), Models(qwen)
    batch = Tree(3, (1, 4), 7)(task.train, models, task, 1)
    nodes, ids, raw = written(batch, "node"), written(batch), written(batch, "raw")
    assert not batch.take("node")[~batch.own].any()
    content: dict[int, set] = {}
    for row, places in enumerate(nodes):
        prompt = tuple(batch.ids[row][batch.real[row] & ~batch.own[row]].tolist())
        sizes = [places.count(node) for node in dict.fromkeys(places)]
        assert sizes[:-1] == [1, 3][: len(sizes) - 1]
        for node in set(places):
            here = [t for t, each in enumerate(places) if each == node]
            stop = here[-1] + 1
            piece = (prompt, tuple(ids[row][:stop]), tuple(raw[row][:stop]), here[0])
            content.setdefault(node, set()).add(piece)
    assert all(len(found) == 1 for found in content.values()), "a node is one piece of one path"
    finished = batch.take("finished").bool()
    for leaves, places, end in zip(batch.take("leaves").tolist(), nodes, finished, strict=True):
        assert leaves == {1: 9, 2: 3, 3: 1}[len(set(places))]
        assert end or (leaves == 1 and len(places) == 7)
    sums = torch.zeros(16).index_add(0, batch.group, batch.take("leaves"))
    assert sums.tolist() == [9.0] * 16
    assert len(set(batch.take("leaves").tolist())) == 3, "some paths end early"


def test_what_is_shared_is_counted_once(qwen):
    task, models = toy_task(6), Models(qwen)
    batch = Tree(3, (1, 4), 7)(task.train, models, task, 1)
    pieces = {
        (node, place) for places in written(batch, "node") for place, node in enumerate(places)
    }
    assert models.ledger.generated == len(pieces) < int(batch.own.sum())


@torch.no_grad()
def test_probabilities_are_those_of_the_whole_row(qwen):
    task, models = toy_task(3), Models(qwen)
    batch = Tree(2, (1, 3), 6, Law(0.7))(task.train, models, task, 2)
    for row in range(len(batch)):
        ids, own = batch.ids[row][batch.real[row]], batch.own[row][batch.real[row]]
        law = (qwen.model(ids[None]).logits[0] / 0.7).log_softmax(-1)
        expected = law[:-1][own[1:], ids[own]]
        assert torch.allclose(batch.take("logp")[row][batch.own[row]].double(), expected, atol=1e-5)


@torch.no_grad()
def test_two_leaves_follow_the_law_and_are_independent_given_their_trunk(qwen):
    """P(trunk) P(one | trunk) P(other | trunk), enumerated over a law of two words."""
    law, many = Law(top_k=2), 1500
    task, models = toy_task(1), Models(qwen)
    batch = Tree(2, (1,), 2, law)(task.train * many, models, task, 0)
    found: dict[int, tuple] = {}
    for group, ids in zip(batch.group.tolist(), written(batch), strict=True):
        found[group] = (*found.get(group, ()), tuple(ids))
    prompt = qwen.render(task.prompt(task.train[0]))

    def step(ids):
        kept = law.log_probs(qwen.model(torch.tensor([ids])).logits[0, -1:])[1][0].exp()
        return {int(w): float(kept[w]) for w in kept.nonzero()}

    expected = {}
    for trunk, p in step(prompt).items():
        if trunk in qwen.ends:
            expected[((trunk,),)] = p
            continue
        after = step([*prompt, trunk])
        for one, q in after.items():
            for other, r in after.items():
                expected[((trunk, one), (trunk, other))] = p * q * r
    counts = Counter(found.values())
    assert set(counts) <= set(expected) and sum(expected.values()) == pytest.approx(1)
    assert len(expected) >= 5
    observed = [counts[key] for key in expected]
    assert chisquare(observed, [many * p for p in expected.values()]).pvalue > 1e-3


def test_weighed_by_what_they_stand_for_leaves_have_the_mean_of_samples(qwen):
    """The mean length; unweighted, rows that end early count too little."""
    task, models, many = toy_task(1), Models(qwen), 1200
    tree = Tree(2, (1, 2), 3)(task.train * many, models, task, 0)
    plain = Sample(4, 3)(task.train * many, models, task, 1)
    long, share = tree.own.sum(1).float(), tree.take("leaves")
    mean = plain.own.sum(1).float().mean()
    weighed = (long * share).sum() / share.sum()
    # The standard deviation of a length is at most 1, that of a mean over trees 1/sqrt(many).
    assert abs(weighed - mean) < 4 * (1 / many + 1 / (4 * many)) ** 0.5
    assert long.mean() - mean > 6 * (1 / many) ** 0.5


def test_cuts_must_increase_below_the_length():
    for at in ((), (3,), (1, 7)):
        assert Tree(2, at, 8).n == 2 ** len(at)
    for at in ((0, 2), (3, 3), (4, 2), (8,)):
        with pytest.raises(ValueError, match="the cuts must increase"):
            Tree(2, at, 8)
    with pytest.raises(ValueError, match="branch=0"):
        Tree(0)
    assert Tree(2, (1, 2), 8).problems(12) == 3
