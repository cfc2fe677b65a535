"""Rewards as users write them: loading, calling, weights, faults, and TRL's own functions."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import os
import sys
import zipfile
from collections import Counter
from dataclasses import replace

import pytest

from autodidact.methods.grpo import grpo
from autodidact.models import Models
from autodidact.notes import Notes, described
from autodidact.problem import Problem
from autodidact.run import Run
from autodidact.tasks import reward_calls
from autodidact.tasks.rewards import user_reward
from autodidact.track import numbers
from autodidact.train import Training
from toys import toy_task

PROBLEMS = [
    Problem("1+1?", "Two.", "2", {"level": 1, "_at": "a.jsonl:1"}),
    Problem("2+2?", "Four.", "4", {"level": 2}),
    Problem("3+3?", None, "6"),
]
COMPLETIONS = ["It is 2.", "It is 5.", ""]

SOURCE = """
import asyncio
import json
from helper_beside import bonus

waiting = []

def right(prompts, completions, answer, **columns):
    return [1.0 if a in c else 0.0 for c, a in zip(completions, answer)]

def everything(log_extra, **columns):
    del columns["log_metric"]
    log_extra("names", list(columns))
    for name, values in columns.items():
        log_extra(name, values or [])
    return [0] * len(columns["completions"])

def counts(completions):
    waiting.extend(completions)
    return [len(waiting)] * len(completions)

def counted(completions):
    return [waiting.index("") - 1] * len(completions)

def level(completions, level):
    return level

def half(completions, log_metric, **columns):
    log_metric("asked", len(completions))
    return [None if i % 2 else float(i) for i in range(len(completions))]

def length(completions):
    return [bonus(c) for c in completions]

async def meet(name):
    waiting.append(name)
    for _ in range(10_000):
        if len(waiting) == 2:
            return
        await asyncio.sleep(0)
    raise TimeoutError("the other function was not started")

async def slow(prompts, completions, **columns):
    await meet("slow")
    return [0.5] * len(completions)

async def other(prompts, completions, **columns):
    await meet("other")
    return [None, 0.25, 0.25]

class Judge:
    async def __call__(self, completions, **columns):
        return [2.0] * len(completions)

judge = Judge()

async def loop_of(completions, log_metric, **columns):
    log_metric("loop", id(asyncio.get_running_loop()))
    return [0.0] * len(completions)

def odd(completions, **columns):
    return [float("nan"), float("inf"), None]

def messages(prompts: list[list[dict]], completions: list[list[dict[str, str]]], log_extra):
    log_extra("read", [json.dumps([prompts, completions])])
    return [len(c[0]["content"]) for c in completions]

def untyped_messages(completions, **columns):
    return [len(c[0]["content"]) for c in completions]

def logs(completions, log_metric, log_extra, trainer_state, **columns):
    assert trainer_state is None
    log_metric("mean", 3)
    log_extra("first", [c[:1] for c in completions])
    return [0.0] * len(completions)

def short(completions, **columns):
    return [1.0]

def number(completions, **columns):
    return 1.0

def strings(completions, **columns):
    return ["1.0"] * len(completions)

def arrays(completions, **columns):
    import numpy
    return numpy.arange(len(completions), dtype=numpy.float32)

def scalars(completions, **columns):
    import torch
    return [torch.tensor(0.5), True, 1]

def breaks(completions, **columns):
    return [{}["no such key"] for _ in completions]

async def breaks_too(completions, **columns):
    raise RuntimeError("the judge is down")

def needs_tokens(completion_ids, **columns):
    return [0.0]

def needs_column(completions, levle):
    return [0.0]

def positional(prompts, /, completions):
    return [0.0]

CONSTANT = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "helper_beside.py").write_text("def bonus(text):\n    return len(text) / 10\n")
    (tmp_path / "mine.py").write_text(SOURCE)
    return "mine.py"


def score(spec, **options):
    return user_reward(spec, **options)(PROBLEMS, COMPLETIONS)


def fault(spec, **options) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        score(spec, **options)
    return str(caught.value)


def test_functions_by_path(file, tmp_path):
    assert score("mine.py:right") == [1.0, 0.0, 0.0]
    assert score(f"{tmp_path}/mine.py:right") == [1.0, 0.0, 0.0]
    assert score("mine:right") == [1.0, 0.0, 0.0]  # a module in the current folder
    assert score("mine.py:length") == [0.8, 0.8, 0.0]
    assert score("mine.py:level") == [1.0, 2.0, None]  # a row without the column
    assert user_reward("mine.py:right")([], []) == []


def test_a_file_is_one_module_until_it_changes(file, tmp_path):
    assert score("mine.py:counts,mine.py:counted") == [4.0, 4.0, 4.0]
    (tmp_path / "mine.py").write_text("def right(completions):\n    return [7] * len(completions)")
    os.utime(tmp_path / "mine.py", ns=(1, 1))
    assert score("mine.py:right") == [7.0, 7.0, 7.0]


def test_arguments(file):
    reward = user_reward("mine.py:everything")
    reward(PROBLEMS, COMPLETIONS)
    seen = reward.extra
    assert seen["prompts"] == ["1+1?", "2+2?", "3+3?"]
    assert seen["completions"] == COMPLETIONS
    assert seen["question"] == seen["prompts"]
    assert seen["solution"] == ["Two.", "Four.", None]
    assert seen["answer"] == ["2", "4", "6"]
    assert seen["level"] == [1, 2, None]
    assert "_at" not in seen["names"]
    assert seen["trainer_state"] == []

    def prompt(problem):
        return [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": problem.question},
        ]

    reward = user_reward("mine.py:everything", prompt=prompt)
    reward(PROBLEMS, COMPLETIONS)
    assert reward.extra["prompts"][0] == "Be brief.\n\n1+1?"
    reward = user_reward("mine.py:messages", prompt=prompt)
    assert reward(PROBLEMS, COMPLETIONS) == [8.0, 8.0, 0.0]
    prompts, completions = json.loads(reward.extra["read"][0])
    assert prompts[1] == prompt(PROBLEMS[1])
    assert completions[0] == [{"role": "assistant", "content": "It is 2."}]


def test_form_is_an_option(file):
    assert score("mine.py:untyped_messages", form="messages") == [8.0, 8.0, 0.0]
    message = fault("mine.py:untyped_messages")
    assert "mine.py:untyped_messages raised TypeError" in message
    assert "form='messages'" in message
    assert "did you mean 'messages'" in fault("mine.py:right", form="message")


def test_weights(file):
    assert score("mine.py:right=0.75,mine.py:length=-2") == pytest.approx([-0.85, -1.6, 0.0])
    assert score(["mine.py:right=0.75", "mine.py:length=-2"]) == pytest.approx([-0.85, -1.6, 0.0])
    assert score("mine.py:right=2e0") == [2.0, 0.0, 0.0]


def test_async_functions_run_at_once(file):
    """Each waits until the other has started."""
    assert score("mine.py:slow=2,mine.py:other=4,mine.py:right") == [2.0, 2.0, 2.0]
    assert score("mine.py:judge") == [2.0, 2.0, 2.0]


def test_async_functions_inside_a_running_loop(file):
    """As in a notebook."""

    async def cell():
        return score("mine.py:judge")

    assert asyncio.run(cell()) == [2.0, 2.0, 2.0]


def test_async_functions_keep_one_loop(file):
    first, second = user_reward("mine.py:loop_of"), user_reward("mine.py:loop_of")
    for reward in (first, second, first):
        reward(PROBLEMS, COMPLETIONS)
    assert first.metrics["loop"] == second.metrics["loop"]


def test_unscorable_completions_are_counted(file):
    reward = user_reward("mine.py:odd")
    assert reward(PROBLEMS, COMPLETIONS) == [None, None, None]
    assert reward.unscored == {
        "mine.py:odd returned NaN": 1,
        "mine.py:odd returned infinity": 1,
        "mine.py:odd returned None": 1,
    }
    assert score("mine.py:odd=3,mine.py:right=0.5") == [0.5, 0.0, 0.0]  # the sum of what is there


def test_logging(file):
    reward = user_reward("mine.py:logs")
    assert reward(PROBLEMS, COMPLETIONS) == [0.0, 0.0, 0.0]
    assert reward.metrics == {"mean": 3.0}
    assert reward.extra == {"first": ["I", "I", ""]}


def test_what_rewards_say_is_in_the_line_of_the_step(file, fresh):
    """Reasons and numbers of that step's rollouts, and of no other call."""
    reward = user_reward("mine.py:half")
    task = replace(toy_task(8), reward=reward)
    run = Run(steps=2, rows=8, lr=1e-4)
    training = Training(grpo(n=2, length=4), Models(fresh), task, run)
    reward(PROBLEMS, COMPLETIONS)
    for _ in range(2):
        _, line = training.advance()
        assert line["unscored"] == {"mine.py:half returned None": 4}
        assert line["logged"] == {"asked": 8.0}
        assert line["unscorable"] == 0.5
    assert reward.unscored.total() == 1 + 2 * 4
    assert numbers({**line, "kind": "step"})["train/logged/asked"] == 8.0


def test_what_ranks_noted_is_one():
    parts = [
        Notes(Counter(a=2), {"x": 1.0, "y": 5.0}), Notes(Counter(a=1, b=1), {"x": 2.0}), Notes()
    ]  # fmt: skip
    assert described(parts) == {"unscored": {"a": 3, "b": 1}, "logged": {"x": 1.5, "y": 5.0}}
    assert described([Notes()]) == {}


def test_arrays_and_scalars_are_numbers(file):
    assert score("mine.py:arrays") == [0.0, 1.0, 2.0]
    values = score("mine.py:scalars")
    assert values == [0.5, 1.0, 1.0]
    assert all(type(value) is float for value in values)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mine.py:short", "mine.py:short returned 1 rewards for 3 completions"),
        ("mine.py:number", "mine.py:number returned float; allowed: a list"),
        ("mine.py:strings", "mine.py:strings returned '1.0' (str) for completion 0"),
        ("mine.py:breaks", "mine.py:breaks raised KeyError: 'no such key' (mine.py:"),
        ("mine.py:breaks_too", "mine.py:breaks_too raised RuntimeError: the judge is down (mine"),
        ("mine.py:needs_tokens", "mine.py:needs_tokens needs completion_ids; token ids are not"),
        ("mine.py:needs_column", "needs the column 'levle', which the data does not have"),
        ("mine.py:needs_column", "did you mean 'level'?"),
        ("mine.py:positional", "mine.py:positional takes unnamed arguments"),
        ("mine.py:rigth", "mine.py has no function 'rigth'; functions there: "),
        ("mine.py:rigth", "did you mean 'right'?"),
        ("mine.py:CONSTANT", "mine.py has no function 'CONSTANT'"),
        ("nothing.py:f", "nothing.py: no such file"),
        (
            "no_such_module_at_all:f",
            "no_such_module_at_all cannot be imported: ModuleNotFoundError",
        ),
        ("broken.py:f", "broken.py cannot be imported: SyntaxError"),
        (
            "raising.py:f",
            "raising.py cannot be imported: ZeroDivisionError: division by zero (rais",
        ),
        ("mine.py:right=much", "weight 'much' in reward 'mine.py:right=much'; allowed: a finite"),
        ("mine.py:right=nan", "weight 'nan'"),
        ("mine.py", "'mine.py' is no import path; allowed: package.module:function"),
        ("", "'' is no import path"),
        ([], "names no function"),
        ("mine.py:right,", "'' is no import path"),
    ],
)
def test_faults_name_the_function(file, tmp_path, spec, expected):
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    assert expected in fault(spec)


# TRL's own functions


def test_trl_accuracy_reward():
    pytest.importorskip("trl")
    problems = [
        Problem("a", "\\frac{1}{3}", "1/3"),
        Problem("b", "\\frac{1}{3}", "1/3"),
        Problem("c", "", "1/3"),  # not readable: TRL returns None
    ]
    completions = ["\\boxed{\\frac{1}{3}}", "\\boxed{\\frac{1}{2}}", "\\boxed{3}"]
    reward = user_reward("trl.rewards:accuracy_reward")
    assert reward(problems, completions) == [1.0, 0.0, None]
    assert reward.unscored == {"trl.rewards:accuracy_reward returned None": 1}
    assert reward.extra["answer_parsed"][2] == "[skipped]"


def test_trl_rewards_with_weights(file):
    pytest.importorskip("trl")
    completions = ["<think>a</think>2", "4", "<think>b"]
    spec = "trl.rewards:think_format_reward=0.25,mine.py:right=1"
    assert user_reward(spec)(PROBLEMS, completions) == [1.25, 1.0, 0.0]
    reward = user_reward("trl.rewards:reasoning_accuracy_reward")
    solved = [Problem("q", "$2$", "2")] * 2
    boxed = ["<think>a</think>\\boxed{2}", "\\boxed{2}"]
    assert reward(solved, boxed) == [1.0, 0.0]


def test_same_sum_as_trl(file):
    """TRL: `(rewards_per_func * weights).nansum(dim=1)`, NaN where no function scored."""
    torch = pytest.importorskip("torch")
    spec = {"mine.py:right": 0.7, "mine.py:odd": 2.0, "mine.py:level": -0.3}
    parts = [user_reward(name)(PROBLEMS, COMPLETIONS) for name in spec]
    table = torch.tensor([[math.nan if v is None else v for v in part] for part in parts]).T
    theirs = (table * torch.tensor(list(spec.values()))).nansum(dim=1)
    ours = score(",".join(f"{name}={weight}" for name, weight in spec.items()))
    assert ours == pytest.approx(theirs.tolist(), abs=1e-6)


def test_code_in_an_archive_has_no_file_to_know_it_by(tmp_path, monkeypatch):
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("in_an_archive.py", "def reward(completions):\n    return [1.0]\n")
    monkeypatch.syspath_prepend(str(archive))
    reward = importlib.import_module("in_an_archive").reward

    assert reward([""]) == [1.0] and reward_calls._file(reward) is None
    assert reward_calls._file(test_code_in_an_archive_has_no_file_to_know_it_by) == __file__
    assert reward_calls._file(len) is None
