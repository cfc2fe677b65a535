"""Votes: the majority is elected from all, and only some rows are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from autodidact.grade import texts
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.votes import Votes
from toys import toy_task


def letters(count: int, none: int = -1):
    """A task whose final answer is one of few letters, and none at all for one of them."""

    def final(text: str) -> str | None:
        number = sum(text.encode()) % count
        return None if number == none else "abcdef"[number]

    return replace(toy_task(), final=final)


@pytest.mark.parametrize("none", [-1, 1])
def test_the_most_frequent_answer_of_all_votes_is_elected_and_ties_go_to_the_first(qwen, none):
    task, ties = letters(3, none), 0
    for seed in range(4):
        models = Models(qwen)
        drawn = Sample(7, 5)(task.train, models, task, seed)
        kept = Votes(7, 5, 3)(task.train, models, task, seed)
        answers = [task.final(text) for text in texts(drawn, models)]
        for group in range(len(task.train)):
            given = answers[7 * group : 7 * group + 7]
            count = Counter(each for each in given if each is not None)
            winner = max(count, key=count.get, default="nobody")  # the first of the largest
            ties += list(count.values()).count(count.get(winner)) > 1
            rows = slice(3 * group, 3 * group + 3)
            expected = [-1.0 if each is None else float(each == winner) for each in given[:3]]
            assert kept.take("majority")[rows].tolist() == expected
            assert kept.take("reward")[rows].tolist() == [max(0.0, each) for each in expected]
    assert ties, "there should be a tie to break"


def test_the_rows_are_the_first_of_each_problem(qwen):
    task, models = letters(3), Models(qwen)
    drawn = Sample(5, 5)(task.train, models, task, 1)
    kept = Votes(5, 5, 2)(task.train, models, task, 1)
    chosen = drawn.select([row for row in range(len(drawn)) if row % 5 < 2])
    assert torch.equal(kept.ids, chosen.ids) and torch.equal(kept.group, chosen.group)
    assert kept.rows == chosen.rows


def test_without_any_answer_nobody_is_elected(qwen):
    task = replace(toy_task(), final=lambda text: None)
    kept = Votes(4, 3, 4)(task.train, Models(qwen), task, 0)
    assert (kept.take("majority") == -1).all() and not kept.take("reward").any()


def test_nobody_looks_at_the_answer_or_the_reward_of_the_task(qwen):
    def fail(*_):
        raise AssertionError("this is not to be asked")

    blind = letters(3)
    blind = replace(
        blind, correct=fail, reward=fail, train=[replace(p, answer=None) for p in blind.train]
    )
    found = [Votes(4, 5, 4)(task.train, Models(qwen), task, 0) for task in (blind, letters(3))]
    assert torch.equal(found[0].take("reward"), found[1].take("reward"))


def test_what_cannot_be_is_refused(qwen):
    for keep in (0, 5):
        with pytest.raises(ValueError, match=f"keep={keep} of n=4"):
            Votes(4, 5, keep)
    task = replace(toy_task(), final=None)
    with pytest.raises(ValueError, match="no `final`"):
        Votes(4, 5, 2)(task.train, Models(qwen), task, 0)
