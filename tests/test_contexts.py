"""Contexts: what a teacher is told, kind by kind; from whom; and a step of a method with each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
import torch

from autodidact.batch import Batch, batch_of
from autodidact.contexts import TOLD, Context, ContextKind
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.train import Training
from toys import perturb, toy_task

KINDS = get_args(ContextKind)
SIBLING = "{}\n\nHere is a correct solution:\n{}\n\nNow solve the problem yourself, step by step."
FEEDBACK = (
    "{}\n\nOf an earlier attempt of yours this was said:\n{}\n\nNow solve the problem correctly."
)


def context(kind: ContextKind) -> Context:
    return Context(kind, "Be brief." if kind == "system" else None)


def written(models: Models, task: Task, answers: Sequence[Sequence[str]], rewards=None) -> Batch:
    """A group of rows with these completions for each of the first problems of a task."""
    rows = [(i, text) for i, group in enumerate(answers) for text in group]
    policy, problems = models.policy, [task.train[i] for i, _ in rows]
    batch = batch_of(
        problems,
        [policy.render(task.prompt(problem)) for problem in problems],
        [policy.encode(text) for _, text in rows],
        task,
        group=[7 - 2 * i for i, _ in rows],
    )
    return batch if rewards is None else batch.put(reward=torch.tensor(rewards))


def asked(prompts) -> list[str]:
    """The content of prompts of one message each."""
    assert all(len(messages) == 1 and messages[0]["role"] == "user" for messages in prompts)
    return [messages[0]["content"] for messages in prompts]


def read(kind: ContextKind, batch: Batch, models: Models) -> tuple[list[str], list[float]]:
    """What the teacher of each row is asked, and whether the row counts as told."""
    told = context(kind).tell(batch, models)
    return asked(context(kind).prompts(told)), told.take("told").tolist()


@pytest.fixture
def models(qwen):
    return Models(qwen)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("solution", "1+1\nsolution:\n1+1=2."),
        (
            "answer",
            "1+1\n\nThe correct final answer is: 2\n\n"
            "Solve the problem yourself, step by step, so that it leads there.",
        ),
        (
            "demonstration",
            "1+1\n\nThis is how one may answer:\n1+1=2.\n\nNow answer in words of your own.",
        ),
        (
            "other",
            "Here is another problem with its solution:\n2+4\n2+4=6..\n\n"
            "Now solve this problem, step by step:\n1+1",
        ),
        ("wrong", "1+1\nsolution:\n2+4=6.."),
        ("none", "1+1"),
    ],
)
def test_what_is_told_of_a_problem_alone(kind, expected, models):
    task = toy_task(2)
    batch = written(models, task, [["a"], ["b"]])
    found, told = read(kind, batch, models)
    assert found[0] == expected and told == [1.0, 1.0]
    assert asked(context(kind).prompts(batch)) == found, "before anything is told"


def test_a_system_text_is_a_system_message_and_there_is_only_one(models):
    task = toy_task(1)
    batch = written(models, task, [["a"]])
    system, user = {"role": "system", "content": "Be brief."}, task.prompt(task.train[0])[0]
    assert context("system").prompts(context("system").tell(batch, models)) == [[system, user]]
    strict = {"role": "system", "content": "Think."}
    own = replace(batch, task=replace(task, prompt=lambda problem: [strict, user]))
    both = {"role": "system", "content": "Be brief.\n\nThink."}
    assert context("system").prompts(own) == [[both, user]]


def test_a_prompt_keeps_the_messages_before_its_last():
    before = [{"role": "system", "content": "Think."}, {"role": "user", "content": "{text}?"}]
    last = {"role": "user", "content": "{question}!"}
    task = replace(toy_task(1), prompt=lambda problem: [*before, last])
    ids = torch.tensor([[0, 1]])
    own = torch.tensor([[False, True]])
    batch = Batch(ids, ids >= 0, own, torch.zeros(1).long(), tuple(task.train), task)
    (messages,) = Context("answer").prompts(batch)
    assert messages[:2] == before and messages[2]["content"].startswith("{question}!\n\nThe")


def test_a_task_has_words_of_its_own():
    task = tiny_calculation(train=20, test=2)
    problem, other = task.train[:2]
    task = replace(task, train=[problem, other])
    ids = torch.tensor([[0, 1]])
    own = torch.tensor([[False, True]])
    batch = Batch(ids, ids >= 0, own, torch.zeros(1).long(), (problem,), task)
    form = f"{problem.question}\nsolution:\n{{}}".format
    expected = {
        "solution": form(problem.solution),
        "answer": form(problem.answer),
        "demonstration": form(problem.solution),
        "other": form(f"{other.question}\n{other.solution}"),
        "wrong": form(other.solution),
        "system": f"Be brief.\n{problem.question}",
        "none": problem.question,
    }
    assert {kind: asked(context(kind).prompts(batch))[0] for kind in expected} == expected
    for kind in ("feedback", "sibling"):
        told = replace(problem, meta={**problem.meta, TOLD: (kind, "so")})
        assert asked(context(kind).prompts(replace(batch, rows=(told,)))) == [form("so")]


def test_a_demonstration_comes_from_its_column_first(models):
    task = toy_task(1)
    shown = replace(task.train[0], meta={"demonstration": "like this"})
    batch = written(models, replace(task, train=[shown]), [["a"]])
    assert "like this" in read("demonstration", batch, models)[0][0]
    bare = replace(task.train[0], solution=None)
    with pytest.raises(ValueError, match="neither a column 'demonstration' nor a solution"):
        context("demonstration").tell(replace(batch, rows=(bare,)), models)


def test_donors_are_other_problems_and_stay_the_same(models):
    task = toy_task(12)
    batch = written(models, task, [["a"]] * 12)
    found, _ = read("other", batch, models)
    for problem, text in zip(task.train, found, strict=True):
        shown, _, asks = text.partition("\n\nNow solve")
        assert asks.endswith(f"\n{problem.question}") and problem.solution not in shown
        assert sum(f"\n{p.question}\n{p.solution}" in shown + "\n" for p in task.train) == 1
    assert len({text.partition("\n\n")[0] for text in found}) > 4, "not one donor for all"
    few = batch.select([5, 2])
    assert read("other", few, models)[0] == [found[5], found[2]]


@pytest.mark.parametrize("answered", [True, False])
def test_a_wrong_solution_ends_elsewhere(answered, models):
    """All problems but one end alike: that one is shown to all the others."""
    ends = [str(int(i == 7)) for i in range(10)]
    train = [Problem(f"q{i}", f"so {end}", end if answered else None) for i, end in enumerate(ends)]
    task = replace(toy_task(), train=train)
    found, _ = read("wrong", written(models, task, [["a"]] * 10), models)
    for i, text in enumerate(found):
        assert text == f"q{i}\nsolution:\nso {int(i != 7)}"


@pytest.mark.parametrize(
    ("kind", "words"), [("other", "with a solution to show"), ("wrong", "and another answer")]
)
def test_without_a_donor_it_says_so(kind, words, models):
    batch = written(models, toy_task(1), [["a"]])
    with pytest.raises(ValueError, match=words):
        context(kind).tell(batch, models)


def test_a_sibling_is_a_success_of_the_group_and_never_oneself(models):
    task = toy_task(3)
    groups = [["a", "b", "c"], ["d", "e"], ["f", "g", "f"]]
    rewards = [0.0, 1.0, math.nan, 1.0, 0.4, 0.5, 0.0, 0.5]
    batch = written(models, task, groups, rewards)
    found, told = read("sibling", batch, models)
    # "b" is alone with its success, and "f" reads the same as the other success.
    siblings = ["b", None, "b", None, "d", None, "f", None]
    assert told == [float(text is not None) for text in siblings]
    for text, sibling, problem in zip(found, siblings, batch.rows, strict=True):
        question = problem.question
        assert text == (question if sibling is None else SIBLING.format(question, sibling))


def test_the_choice_among_siblings_does_not_depend_on_the_order_of_rows(models):
    task = toy_task(1)
    texts = ["one", "two", "three", "four", "five"]
    batch = written(models, task, [texts], [1.0, 1.0, 0.0, 1.0, 1.0])
    found, _ = read("sibling", batch, models)
    order = [3, 1, 4, 0, 2]
    assert read("sibling", batch.select(order), models)[0] == [found[i] for i in order]
    assert len(set(found)) == 2, "one for all, and another for that one"
    assert not any(f"\n{text}\n" in seen for text, seen in zip(texts, found, strict=True))


def test_how_much_is_a_success(models):
    batch = written(models, toy_task(1), [["a", "b"]], [0.7, 0.0])
    for least, expected in ((0.7, [0.0, 1.0]), (0.75, [0.0, 0.0])):
        told = Context("sibling", least=least).tell(batch, models)
        assert told.take("told").tolist() == expected


def test_feedback_is_what_the_task_says_or_how_it_graded(models):
    task = toy_task(1)
    batch = written(models, task, [["a", "b"]], [0.5, math.nan])
    found, told = read("feedback", batch, models)
    assert found == [FEEDBACK.format("1+1", "It earned 0.5."), "1+1"] and told == [1.0, 0.0]
    talks = replace(
        task, feedback=lambda p, text: f"{p.answer}, not {text}" * (text == "b") or None
    )
    found, told = read("feedback", replace(batch, task=talks), models)
    assert found == ["1+1", FEEDBACK.format("1+1", "2, not b")] and told == [0.0, 1.0]


def test_a_sibling_and_feedback_after_a_failure_or_whichever_there_is(models):
    task = replace(toy_task(3), feedback=lambda problem, text: f"{text} fails")
    batch = written(models, task, [["a", "b"], ["c"], ["d"]], [1.0, 0.0, 0.0, 1.0])
    found, told = read("sibling_and_feedback", batch, models)
    both = "a\n\nOf an earlier attempt of yours this was said:\nb fails"
    assert told == [0.0, 1.0, 1.0, 0.0]
    assert found == [
        "1+1", SIBLING.format("1+1", both), FEEDBACK.format("2+4", "c fails"), "3+9",
    ]  # fmt: skip
    silent = replace(batch, task=toy_task(3))
    assert read("sibling_and_feedback", silent, models) == read("sibling", silent, models)


@pytest.mark.parametrize("kind", ["feedback", "sibling", "sibling_and_feedback"])
def test_completions_are_graded_where_they_were_not(kind, models):
    batch = Sample(3, 4)(toy_task(3).train, models, toy_task(3), 0)
    assert "reward" not in batch.streams
    told = context(kind).tell(batch, models)
    assert models.ledger.verified == len(batch) and float(told.take("told").sum()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_of_a_batch_is_told_what_the_batch_was(kind, models):
    batch = Sample(3, 4)(toy_task(3).train, models, toy_task(3), 0)
    before = [dict(problem.meta) for problem in batch.rows]
    told = context(kind).tell(batch, models)
    assert [dict(problem.meta) for problem in batch.rows] == before
    whole = context(kind).prompts(told)
    parts = [context(kind).prompts(piece) for piece in told.split(2)]
    assert [messages for part in parts for messages in part] == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_opsd_with_every_kind(kind, models):
    """The loss is the mean, over tokens of the told rows, of KL(teacher || student) by hand."""
    task, text = toy_task(), context(kind).text
    task = replace(task, feedback=lambda problem, text: "no" if len(text) > 2 else None)
    method = opsd(n=2, length=4, context=kind, text=text)
    models["initial"]
    perturb(models.policy, 0.05)
    training = Training(method, models, task, Run(steps=1, rows=8, lr=1e-30, weight_decay=0.0))
    batch, line = training.advance()
    told = context(kind).tell(batch, models)
    lm, total, count = models.policy, 0.0, 0
    for row, messages in enumerate(context(kind).prompts(told)):
        if not told.take("told")[row]:
            continue
        tail = batch.ids[row][batch.own[row]].tolist()
        laws = []
        for reader, head in (
            (lm.model, lm.render(task.prompt(batch.rows[row]))),
            (models["initial"].model, lm.render(messages)),
        ):
            logits = reader(torch.tensor([head + tail])).logits[0]
            laws.append(logits[len(head) - 1 : -1].log_softmax(-1).detach())
        p, q = laws
        total += float((q.exp() * (q - p)).sum())
        count += len(tail)
    assert count and line["loss"] == pytest.approx(total / count, rel=1e-6)
    assert line["loss"] > 1e-4 and 0 < line["grad_norm"] < math.inf


def test_one_is_told_nothing_new_by_oneself(models):
    training = Training(opsd(length=4, context="none"), models, toy_task(), Run(steps=1, rows=4))
    assert training.advance()[1]["loss"] == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"context": "sibbling"}, "did you mean 'sibling'"),
        ({"context": "system"}, "needs one"),
        ({"context": "answer", "text": "x"}, "a text belongs to 'system'"),
    ],
)
def test_what_is_no_context(arguments, words):
    with pytest.raises(ValueError, match=words):
        opsd(**arguments)


def test_what_problems_must_have():
    needs = {kind: context(kind).needs for kind in KINDS}
    assert {kind for kind, fields in needs.items() if "answer" in fields} == {
        "answer", "sibling", "sibling_and_feedback"
    }  # fmt: skip
    assert {kind for kind, fields in needs.items() if "solution" in fields} == {
        "solution", "other", "wrong"
    }  # fmt: skip
