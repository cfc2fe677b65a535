"""Turns with a tool: what is whose, where a turn is cut, how a row ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from autodidact.engine import Drawn
from autodidact.law import Law
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.turns import Turns
from autodidact.run import Run
from autodidact.store import Completion
from autodidact.tasks.arithmetic import value
from autodidact.train import Training
from autodidact.view import plain
from toys import photograph, toy_task


@dataclass
class Script:
    """An engine that says lines, each to whom asks next; "|" stands for the end token."""

    lines: list[str]
    name: str = "script"

    def draw(self, lm, requests, law, seed):
        found = []
        for request in requests:
            line = self.lines.pop(0)
            ids = lm.encode(line.removesuffix("|"))
            ids = (ids if line.endswith("|") else ids[:-1])[: request.length]
            logp = [-0.25] * len(ids)
            found.append(Completion(ids, logp, logp, ids[-1] == lm.end))
        return Drawn(found, 0)


def scripted(tiny, *lines):
    return Models(tiny, engine=Script(list(lines)))


def calculator(problem, said):
    """Works out the expression between the tags of a turn; `None` where there is none."""
    _, begins, rest = said[-1].partition("<tool>")
    expression, ends, _ = rest.partition("</tool>")
    return f"={value(expression)}\n" if begins and ends else None


def parts(lm, batch, row=0):
    """The row after its prompt: (own, text) by runs of the same owner, end tokens as "|"."""
    found: list[list] = []
    first = int(batch.own[row].int().argmax())
    for i, own in zip(
        batch.ids[row][batch.real[row]][first:], batch.own[row][first:].tolist(), strict=False
    ):
        if not found or found[-1][0] != own:
            found.append([own, []])
        found[-1][1].append(int(i))
    return [
        (own, "".join("|" if i == lm.end else lm.decode([i]) for i in ids)) for own, ids in found
    ]


def test_a_calculator_answers_inside_the_completion(tiny):
    task = toy_task(1)
    models = scripted(tiny, "so <tool>2+3*4</tool> in vain|", "and <tool>(1+1)/4</tool>", "done|")
    batch = Turns(calculator, stop=("</tool>",))(task.train, models, task, 0)
    assert parts(tiny, batch) == [
        (True, "so <tool>2+3*4</tool>"), (False, "=14\n"),
        (True, "and <tool>(1+1)/4</tool>"), (False, "=1/2\n"), (True, "done|"),
    ]  # fmt: skip
    assert batch.take("finished").tolist() == [1.0]
    assert models.ledger.generated == len(
        "so <tool>2+3*4</tool> in vain|and <tool>(1+1)/4</tool>done|"
    )
    logp = batch.take("logp")
    assert (logp[batch.own] == -0.25).all() and not logp[~batch.own].any()
    turns = batch.take("turn")[0][batch.real[0]].tolist()
    first = turns.index(1)
    assert turns == [0] * first + [1] * 25 + [2] * 29 + [3] * 5


def test_an_environment_answers_end_tokens_until_it_has_enough(tiny):
    """It counts the turns of what it is told; every row has its own length."""
    task, told = toy_task(2), []

    def environment(problem, said):
        told.append((problem.question, said))
        return None if (len(said) + 1) // 2 == int(problem.question[0]) else "\nmore:"

    models = scripted(tiny, "a!|", "b!|", "c!|")
    batch = Turns(environment)(task.train, models, task, 0)
    assert parts(tiny, batch, 0) == [(True, "a!|")]
    assert parts(tiny, batch, 1) == [(True, "b!|"), (False, "\nmore:"), (True, "c!|")]
    assert told == [("1+1", ["a!"]), ("2+4", ["b!"]), ("2+4", ["b!", "\nmore:", "c!"])]
    assert batch.take("finished").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("lines", "finished", "expected"),
    [
        (["ab.", "cd."], 0.0, "ab.+cd."),
        (["ab.", "cd|"], 1.0, "ab.+cd|"),
        (["abcdefghij"], 0.0, "abcdefgh"),
        (["ab.", "c", "never"], 0.0, "ab.+c"),
        (["stop."], 1.0, "stop."),
    ],
)
def test_how_rows_end(tiny, lines, finished, expected):
    """After the last turn, out of length, and where the tool says so."""
    task = toy_task(1)
    rollout = Turns(
        lambda p, said: None if "stop" in said[-1] else "+", turns=2, length=8, stop=(".",)
    )
    batch = rollout(task.train, scripted(tiny, *lines), task, 0)
    assert "".join(text for _, text in parts(tiny, batch)) == expected
    assert batch.take("finished").tolist() == [finished]


def test_the_first_of_several_stop_strings_cuts(tiny):
    task = toy_task(1)
    rollout = Turns(lambda problem, said: None, stop=("cd", "é", "b!"))
    for line, kept in (("abcdé|", "abcd"), ("aéacd|", "aé"), ("ab!cd", "ab!"), ("ac|", "ac|")):
        batch = rollout(task.train, scripted(tiny, line), task, 0)
        assert parts(tiny, batch)[0][1].encode() == kept.encode() or kept == "aé"
        assert int(batch.own.sum()) == len(kept.encode())


def test_an_answer_without_room_ends_the_row_and_the_last_turn_gets_what_is_left(qwen):
    task = toy_task(1)
    prompt = len(qwen.render(task.prompt(task.train[0])))
    left = qwen.context - prompt - 3
    for size, finished, columns in (
        (left, 0.0, prompt + 3),
        (left - 5, 0.0, 256),
        (left - 6, 1.0, 256),
    ):
        models = scripted(qwen, "ab|", "cdefg|")
        batch = Turns(lambda p, t, size=size: "x" * size, turns=2)(task.train, models, task, 0)
        assert batch.ids.shape[1] == columns and batch.take("finished").tolist() == [finished]
        assert (len(parts(qwen, batch)) == 1) == (size == left)


def test_errors_of_a_tool_are_the_users_and_name_the_problem(tiny):
    task = toy_task(1)

    def broken(problem, said):
        raise KeyError("no such page")

    with pytest.raises(KeyError, match="no such page") as caught:
        Turns(broken)(task.train, scripted(tiny, "a|"), task, 0)
    assert "'1+1'" in caught.value.__notes__[0]
    for stop in ("</tool>", ("a", "")):
        with pytest.raises(ValueError, match="give a tuple"):
            Turns(calculator, stop=stop)


def test_one_turn_is_a_sample_and_a_cut_takes_nothing_else(qwen):
    task, models = toy_task(6), Models(qwen)
    plain_draw = Sample(2, 8, Law(0.9))(task.train, models, task, 3)
    turn = Turns(lambda p, t: None, n=2, length=8, law=Law(0.9))(task.train, models, task, 3)
    one, other = photograph(turn), photograph(plain_draw)
    assert other.keys() == one.keys() - {"turn"}
    assert all(torch.equal(one[name], other[name]) for name in other)
    stops = tuple("aeiou!?<>[]{}")
    cut = Turns(lambda p, t: None, n=2, length=8, stop=stops, law=Law(0.9))(
        task.train, models, task, 3
    )
    shorter = 0
    for row in range(len(cut)):
        kept, whole = (b.ids[row][b.own[row]].tolist() for b in (cut, plain_draw))
        assert kept == whole[: len(kept)]
        found = [any(s in qwen.decode(kept[: k + 1]) for s in stops) for k in range(len(kept))]
        assert sum(found) == (1 if len(kept) < len(whole) else found[-1])
        shorter += len(kept) < len(whole)
    assert shorter > 1


@pytest.mark.parametrize("factory", [opsd, grpo])
def test_a_method_learns_from_turns(qwen, factory):
    task, models = toy_task(4), Models(qwen)
    method = replace(
        factory(n=2, length=6), rollout=Turns(lambda p, t: "\nagain ", n=2, turns=3, length=4)
    )
    training = Training(method, models, task, Run(steps=1, rows=8))
    batch, line = training.advance()
    assert (batch.real & ~batch.own & (batch.take("turn") > 0)).any()
    assert models.ledger.trained == int(batch.own.sum()) and line["mismatch_max"] < 1e-4
    assert torch.equal(plain(batch).asked, batch.own)
