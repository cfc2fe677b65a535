"""The store: the same rollouts for every arm that starts from the same weights."""

from __future__ import annotations

import sqlite3

import pytest
import torch

from autodidact import store as module
from autodidact.engines.local import Local
from autodidact.law import Law
from autodidact.methods.grpo import grpo
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.store import Completion, Store
from autodidact.train import Training
from toys import perturb, photograph, random_qwen, toy_task


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "store.sqlite")
    yield found
    found.close()


def sharing(lm, store, version="base") -> Models:
    models = Models(lm, store)
    models.version = version
    return models


def test_what_is_written_is_read_back_exactly(store):
    origin = {"version": "x", "law": Law().describe(), "length": 3, "seed": 0}
    written = Completion([5, 6], [-0.1234567890123, -2.0], [-0.5, -1e-300], True)
    assert store.find(origin, [1, 2], 0) is None
    store.add(origin, [1, 2], 0, written)
    assert store.find(origin, [1, 2], 0) == written
    for other in ([1, 2, 0], [12], [2, 1], [3]):
        assert store.find(origin, other, 0) is None
    assert store.find(origin, [1, 2], 1) is None
    assert store.find({**origin, "seed": 1}, [1, 2], 0) is None
    store.add(origin, [1, 2], 0, Completion([9], [0.0], [0.0], False))
    assert store.find(origin, [1, 2], 0) == written, "written once"
    assert len(store) == 1 and list(store) == [(origin, [1, 2], written)]


def test_a_second_arm_reads_instead_of_drawing_and_pays_the_same(tokenizer, store, monkeypatch):
    task = toy_task(4)
    first = sharing(random_qwen(tokenizer), store)
    one = Sample(3, 6)(task.train, first, task, 0)
    assert len(store) == 12 and first.ledger.reused == 0
    second = sharing(random_qwen(tokenizer), store)
    monkeypatch.setattr(Local, "draw", None)  # drawing would fail
    two = Sample(3, 6)(task.train, second, task, 0)
    left, right = photograph(one), photograph(two)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert second.ledger.generated == first.ledger.generated == int(one.own.sum())
    assert second.ledger.reused == second.ledger.generated
    assert second.ledger.prefilled == first.ledger.prefilled


def test_more_samples_reuse_the_first_and_draw_the_rest(qwen, store):
    task, models = toy_task(2), sharing(qwen, store)
    few = Sample(2, 6)(task.train, models, task, 0)
    spent = models.ledger.generated
    many = Sample(5, 6)(task.train, models, task, 0)
    assert len(store) == 10
    assert models.ledger.reused == int(few.own.sum()) == spent
    alone = Sample(5, 6)(task.train, Models(qwen), task, 0)
    assert torch.equal(many.ids, alone.ids)


@pytest.mark.parametrize("change", ["seed", "length", "law", "version", "prompt"])
def test_whatever_determines_a_rollout_keeps_it_apart(qwen, store, change):
    task, models = toy_task(2), sharing(qwen, store)
    Sample(2, 6)(task.train[:1], models, task, 0)
    models.version = "other" if change == "version" else "base"
    rollout = Sample(2, 7 if change == "length" else 6, Law(0.9 if change == "law" else 1.0))
    problems = task.train[1:] if change == "prompt" else task.train[:1]
    rollout(problems, models, task, 1 if change == "seed" else 0)
    assert models.ledger.reused == 0 and len(store) == 4


def test_weights_that_moved_do_not_share(qwen, store):
    """After an update the weights have no name, so nothing is read or written."""
    task, models = toy_task(4), sharing(qwen, store)
    training = Training(grpo(n=2, length=4), models, task, Run(steps=2, rows=8, lr=1e-3))
    training.advance()
    assert len(store) == 8 and models.version is None
    training.advance()
    assert len(store) == 8 and models.ledger.reused == 0


def test_other_weights_under_the_same_name_would_be_seen_by_the_mismatch(tokenizer, store):
    """The name is the caller's promise; the trainer measures whether it was kept."""
    task = toy_task(4)
    Sample(2, 4)(task.train, sharing(random_qwen(tokenizer), store), task, 0)
    liar = sharing(random_qwen(tokenizer), store)
    perturb(liar.policy, 0.3)
    _, line = Training(grpo(n=2, length=4), liar, task, Run(steps=1, rows=8, seed=0)).advance()
    assert line["mismatch_max"] > 0.1


def test_two_processes_worth_of_connections_share_one_file(tmp_path):
    one, two = Store(tmp_path / "s.sqlite"), Store(tmp_path / "s.sqlite")
    one.add({"a": 1}, [1], 0, Completion([2], [0.0], [0.0], True))
    assert two.find({"a": 1}, [1], 0) == Completion([2], [0.0], [0.0], True)
    one.close()
    two.close()


def test_what_truncation_left_is_stored(store):
    written = Completion([5, 6], [-0.1, 0.0], [-0.5, -0.2], False, [[5, 9, 1], [6]])
    store.add({"law": "top-p"}, [1, 2], 0, written)
    store.add({"law": "whole"}, [1, 2], 0, Completion([5], [-0.1], [-0.1], True))
    assert [found for _, _, found in store] == [
        written,
        Completion([5], [-0.1], [-0.1], True),
    ]


class Busy:
    """A connection whose file another process opens, so many times it is asked."""

    def __init__(self, times: int):
        self.times, self.asked = times, 0

    def execute(self, statement: str) -> None:
        self.asked += 1
        if self.asked <= self.times:
            raise sqlite3.OperationalError("database is locked")


def test_a_file_that_another_process_opens_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    base = Busy(3)
    module._write_ahead(base)
    assert base.asked == 4
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        module._write_ahead(Busy(module.TRIES))
