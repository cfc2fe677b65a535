"""How unlike the others a row is: by hand, and read off a model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.credits.novelty import embeddings, novelty
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from toys import toy_task


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane."""
    turn = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([turn.cos(), turn.sin()], 1)


def sides(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def cos(degrees: float) -> float:
    return max(0.0, math.cos(degrees * math.pi / 180))


def test_three_rows_of_a_side_by_hand():
    """u = 1 - (mean to one's own side + most to anyone) / 2, scaled within the side."""
    embedded, side = at(0, 20, 70, 120), sides(1, 1, 1, 0)
    found = novelty(embedded, torch.zeros(4, dtype=torch.long), side)
    own = {0: (20, 70), 1: (20, 50), 2: (70, 50)}
    everyone = {0: (20, 70, 120), 1: (20, 50, 100), 2: (70, 50, 50)}
    plain = [
        1 - (sum(map(cos, own[i])) / 2 + max(map(cos, everyone[i]))) / 2 for i in range(3)
    ]  # fmt: skip
    low, high = min(plain), max(plain)
    expected = [(each - low) / (high - low) for each in plain]
    assert found[:3].tolist() == pytest.approx(expected, abs=1e-4)  # five decimals count
    assert found[3] == 1, "alone on its side"


def test_equal_rows_are_equally_novel_whatever_rounding_says():
    embedded = at(30, 30, 30, 30) * (1 + 1e-12 * torch.arange(4))[:, None]
    assert (
        novelty(embedded, torch.zeros(4, dtype=torch.long), sides(1, 1, 0, 0)).tolist() == [0.5] * 4
    )


def test_rows_without_an_answer_and_other_groups_are_not_compared_with():
    embedded, side = at(0, 20, 70, 120, 5, 100), sides(1, 1, 1, 0, -1, 1)
    group = torch.tensor([0, 0, 0, 0, 0, 9])
    found = novelty(embedded, group, side)
    alone = novelty(embedded[:4], group[:4], side[:4])
    assert torch.equal(found[:4], alone) and found[4:].tolist() == [0.0, 1.0]


def test_it_follows_the_rows_in_any_order():
    embedded, side = at(0, 20, 70, 120, 33, 80), sides(1, 1, 0, 0, -1, 0)
    group = torch.tensor([3, 3, 3, 3, 3, 3])
    order = [4, 2, 0, 5, 1, 3]
    found = novelty(embedded[order], group[order], side[order])
    assert torch.allclose(found, novelty(embedded, group, side)[order], rtol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


def test_an_embedding_is_the_mean_of_the_states_that_have_read_the_row(qwen):
    models, task = Models(qwen), toy_task()
    batch = Sample(2, 5)(task.train, models, task, 0)
    found = embeddings(batch, models)
    hidden = qwen.model.model(batch.ids, attention_mask=batch.real.long()).last_hidden_state
    for row in range(len(batch)):
        mean = hidden[row][batch.own[row]].mean(0)
        assert torch.allclose(found[row], mean / mean.norm(), rtol=1e-9, atol=1e-12)
    assert not found.requires_grad
    assert models.ledger.teacher_forward == int(batch.real.sum())


def test_only_what_follows_the_last_mark_is_compared(qwen):
    models, task = Models(qwen), toy_task()
    batch = Sample(2, 8)(task.train, models, task, 0)
    row = int(batch.own.sum(1).argmax())
    columns = batch.own[row].nonzero().squeeze(1)
    assert len(columns) >= 5
    ids = batch.ids.clone()
    ids[row, columns[:3]] = torch.tensor(qwen.encode("#a#")[:-1])
    batch = replace(batch, ids=ids)
    hidden = qwen.model.model(batch.ids, attention_mask=batch.real.long()).last_hidden_state
    behind = hidden[row, columns[3:]].mean(0)
    found = embeddings(batch, models, "policy", "#")[row]
    assert torch.allclose(found, behind / behind.norm(), rtol=1e-9, atol=1e-12)
