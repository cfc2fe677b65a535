"""The modular sum: its answers against enumeration, and a model that learns it from rewards."""

from __future__ import annotations

import itertools

import pytest
from recipes import modular_sum as recipe

from autodidact.engines.denoise import Denoise
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.methods.diffu_grpo import diffu_grpo
from autodidact.model import load
from autodidact.models import Models
from autodidact.rollouts.sample import Sample, opening
from autodidact.run import Run
from autodidact.tasks.modular_sum import modular_sum
from autodidact.train import Training


def test_one_row_in_base_is_right():
    """Every row of digits, for each target; and whatever is no such row is wrong."""
    for base, places in ((5, 3), (3, 2), (10, 1)):
        task = modular_sum(base, places, train=base, test=0)
        assert sorted(p.meta["target"] for p in task.train) == list(range(base))
        for problem in task.train:
            target = problem.meta["target"]
            rows = list(itertools.product(range(base), repeat=places))
            right = [task.correct(problem, "".join(map(str, (target, *row)))) for row in rows]
            assert sum(right) == base ** (places - 1)
            assert right == [sum(row) % base == target for row in rows]
    problem = modular_sum(train=5, test=0).train[0]
    good = problem.solution
    other = str((int(good[0]) + 1) % 5)
    assert task.final("0a") is None and task.final("07") == "07"
    for wrong in ("", good[1:], good + "0", other + good[1:], good[:-1] + "7", good[:-1] + "+"):
        assert not modular_sum().correct(problem, wrong), wrong


def test_problems_repeat_all_targets_and_their_solutions_are_right():
    task = modular_sum(4, 2, train=12, test=8)
    for part, times in ((task.train, 3), (task.test, 2)):
        assert sorted(p.meta["target"] for p in part) == sorted(list(range(4)) * times)
        assert all(task.correct(p, p.solution) for p in part)
    again = modular_sum(4, 2, train=12, test=8)
    assert [p.solution for p in again.train] == [p.solution for p in task.train]
    assert task.score(task.train[:1], [task.train[0].solution]) == [1.0]


def test_it_is_a_canvas_of_the_shipped_masked_model():
    lm = load("tiny_diffusion_early")
    task = modular_sum()
    prompt, places = opening(lm, task, task.train[0])
    assert prompt == [] and places[1:] == (None, None, None)
    assert lm.decode([places[0]]) == str(task.train[0].meta["target"])


def accuracy(lm, steps: int | None, samples: int = 100) -> float:
    task = modular_sum()
    rollout = Sample(samples, 4, Law(), engine=Denoise(steps))
    problems = sorted(task.test, key=lambda p: p.meta["target"])[::4]
    return float(grade(rollout(problems, Models(lm), task, 1), Models(lm)).take("reward").mean())


def test_before_training_one_answer_in_five_is_right(tmp_path, capsys):
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert "26" in capsys.readouterr().out
    lm = load(str(tmp_path))
    assert lm.mask == lm.end == 0 and not lm.causal
    for steps in (None, 1):
        assert abs(accuracy(lm, steps) - 0.2) < 0.06  # three standard errors of 500 draws


def test_rewards_alone_teach_it():
    """The one-step likelihood trains the factorised law, so that parallel decoding gets it right."""
    lm = recipe.untrained()
    method = diffu_grpo(
        16, 4, steps=None, block=None, prompt=0.0, kl=0.0, epochs=1, temperature=1.0
    )
    training = Training(
        method, Models(lm), modular_sum(train=160), Run(steps=70, rows=128, lr=3e-3)
    )
    for _ in range(70):
        training.advance()
    assert accuracy(lm, 1) > 0.75 and accuracy(lm, None) > 0.5


def test_wrong_options_are_named():
    for options, message in (
        ({"base": 11}, "base=11"),
        ({"places": 0}, "places=0"),
        ({"train": 0, "test": 0}, "not both 0"),
    ):
        with pytest.raises(ValueError, match=message):
            modular_sum(**options)
