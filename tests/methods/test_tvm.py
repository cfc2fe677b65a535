"""tvm: labels of prefixes, what the network learns of them, and that nothing else moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
import torch

from autodidact.grade import grade
from autodidact.methods.tvm import tvm
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import rows_of, toy_task

LAW = (2, 1, 1)
"""Quarters in which each of three words follows any prefix."""


def tree():
    """Every completion of three words, as often as the law would have it in 64 draws."""
    words = [
        w for w in product(range(3), repeat=3) for _ in range(LAW[w[0]] * LAW[w[1]] * LAW[w[2]])
    ]
    batch = rows_of([3] * len(words))
    ids = batch.ids.clone()
    ids[:, 0], ids[:, 1:] = 0, torch.tensor(words)
    reward = torch.tensor([float((w[0] * 3 + w[1] + 2 * w[2]) % 4 == 1) for w in words])
    return replace(batch, ids=ids).put(reward=reward), words


def exact(prefix, earned):
    """V(prefix) by backward induction on the law."""
    if len(prefix) == 3:
        return earned[prefix]
    return sum(LAW[w] / 4 * exact((*prefix, w), earned) for w in range(3))


def labelled(qwen, batch):
    return tvm(n=2).credit(batch, Models(qwen)).take("returns")


def test_labels_of_all_ways_are_the_exact_values(qwen):
    batch, words = tree()
    assert len(batch) == 64
    labels = labelled(qwen, batch)
    earned = dict(zip(words, batch.take("reward").tolist(), strict=True))
    assert 0.1 < exact((), earned) < 0.9
    for row, word in enumerate(words):
        expected = [exact(word[:t], earned) for t in (1, 2, 3)]
        assert labels[row, 1:].tolist() == pytest.approx(expected, abs=1e-7)
    assert not labels[~batch.own].any()


def test_labels_are_a_martingale_under_what_was_drawn(qwen):
    """The mean over the children of a prefix, by how often each came, is its own label; the mean
    of the first labels is the pass rate."""
    batch, words = tree()
    some = [0, 5, 9, 20, 21, 22, 33, 40, 41, 50, 63]
    batch, words = batch.select(some), [words[i] for i in some]
    labels = labelled(qwen, batch)
    values = {w[:t]: float(labels[i, t]) for i, w in enumerate(words) for t in (1, 2, 3)}
    values[()] = float(batch.take("reward").mean())
    counts = Counter(w[:t] for w in words for t in (0, 1, 2, 3))
    for prefix in [p for p in counts if len(p) < 3]:
        children = [p for p in counts if len(p) == len(prefix) + 1 and p[:-1] == prefix]
        mean = sum(counts[p] * values[p] for p in children) / counts[prefix]
        assert mean == pytest.approx(values[prefix], abs=1e-6)


def test_after_a_prefix_of_ones_own_the_label_is_ones_own_reward(qwen):
    models, task = Models(qwen), toy_task(4)
    batch = grade(tvm(4, 6).rollout(task.train, models, task, 1), models)
    labels = tvm(4, 6).credit(batch, models).take("returns")
    for row in range(len(batch)):
        mates = [i for i in range(len(batch)) if batch.group[i] == batch.group[row] and i != row]
        for t in batch.own[row].nonzero().flatten().tolist():
            shared = [torch.equal(batch.ids[i, : t + 1], batch.ids[row, : t + 1]) for i in mates]
            if not any(shared):
                assert labels[row, t] == batch.take("reward")[row]


def test_the_loss_is_the_mean_square_to_the_label(qwen):
    batch, _ = tree()
    method, models = tvm(n=2), Models(qwen)
    (auxiliary,) = method.auxiliaries
    batch = method.credit(batch, models)
    network = models.trained(auxiliary).network
    found = (auxiliary.loss(network, batch) * auxiliary.weigh(batch)).sum()
    gap = network(batch.take("value_states")) - batch.take("returns")
    expected = (gap[batch.own] ** 2).mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_only_the_network_learns(qwen):
    models = Models(qwen)
    training = Training(
        tvm(4, 4, head="mlp", value_lr=3e-3), models, toy_task(4), Run(steps=12, rows=16, lr=0.1)
    )
    before = [p.detach().clone() for p in models.policy.model.parameters()]
    lines = [training.advance()[1] for _ in range(12)]
    now = models.policy.model.parameters()
    assert all(torch.equal(*pair) for pair in zip(before, now, strict=True))
    losses = [line["loss_value"] for line in lines]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert {line["loss"] for line in lines} == {0.0}
    assert models.ledger.student_forward == 0 == models.ledger.trained
