"""Choices: questions, their turning round, what a completion states, and the soft reward."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from autodidact.tasks.choices import choices, inverted, question, soft_choice, stated


def subsets(of):
    return list(chain.from_iterable(combinations(of, k) for k in range(len(of) + 1)))


def test_the_soft_reward_is_the_share_found_without_a_mistake():
    """|given| / |gold| for a subset, else 0: 1 only for the whole set, by enumeration."""
    for gold in subsets(range(4))[1:]:
        for given in subsets(range(4)):
            found = soft_choice(given, gold)
            wrong = set(given) - set(gold)
            assert found == (0 if wrong else len(given) / len(gold))
            assert (found == 1) == (set(given) == set(gold))
    with pytest.raises(ValueError, match="empty"):
        soft_choice([1], [])


def test_a_question_and_its_turned_one_share_the_choices_out():
    one = question(36, [5, 6, 7, 12])
    assert (one.question, one.answer) == ("36:5,6,7,12", "6,12")
    assert one.solution == "36=5*7+1\n36=6*6\n36=7*5+1\n36=12*3\n6,12"
    two = inverted(one)
    assert (two.question, two.answer) == ("36!5,6,7,12", "5,7")
    assert inverted(two) == one
    with pytest.raises(ValueError, match="right choice"):
        question(35, [2, 3])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("6,12", {6, 12}), ("36=6*6\n12, 6 \n", {6, 12}), ("6", {6}), ("6,6", {6}), ("", None),
     ("none", None), ("6,", None), ("6;12", None)],
)  # fmt: skip
def test_the_last_line_is_what_is_stated(text, wanted):
    assert stated(text) == wanted


def test_the_task_grades_its_own_solutions():
    task = choices(train=40, test=10)
    problems = [*task.train, *task.test]
    assert len({p.question for p in problems}) == 50
    assert task.score(problems, [p.solution for p in problems]) == [1.0] * 50
    assert all(task.correct(p, p.solution) and not task.correct(p, "1") for p in problems)
    for problem in problems:
        number, options = problem.meta["number"], problem.meta["options"]
        right = [each for each in options if number % each == 0]
        assert problem.answer == ",".join(map(str, right)) and 1 <= len(right) <= 3
    several = next(p for p in problems if "," in p.answer)
    part = several.answer.split(",")
    assert task.score([several] * 3, [part[0], "13", "?"]) == [1 / len(part), 0.0, 0.0]
    assert not task.correct(several, part[0])
    exact = choices(train=40, test=10, reward="exact")
    assert exact.score([several, several], [part[0], several.solution]) == [0.0, 1.0]
    assert task.final("12, 6") == "6,12" and task.final("?") is None
    assert (
        choices(train=40, test=10).train == task.train != choices(train=40, test=10, seed=1).train
    )


def test_turned_questions_ask_for_several():
    """A question with one right choice, negated, has all but one."""
    plain, turned = (choices(right=1, turned=t, train=30, test=0) for t in (False, True))
    for one, two in zip(plain.train, turned.train, strict=True):
        assert two == inverted(one) and len(two.answer.split(",")) == 3
    mixed = choices(right=(1, 2), turned=True, train=60, test=0).train
    assert {(p.meta["turned"], len(p.answer.split(","))) for p in mixed} == {(True, 3), (False, 2)}


def test_a_teacher_reads_the_solution_or_what_it_is_told():
    task = choices(train=2, test=0)
    one = task.train[0]
    assert one.solution in task.privileged(one)[0]["content"]
    assert task.told(one, "text", "6")[0]["content"].endswith("solution:\n6")
    assert task.told(one, "system", "briefly")[0]["content"] == f"briefly\n{one.question}"
    assert task.prompt(one)[0]["content"] == one.question


@pytest.mark.parametrize(
    "wrong", [{"options": 1}, {"right": 4}, {"right": (2, 1)}, {"train": 0, "test": 0},
              {"right": 2, "largest": 3, "train": 9}, {"largest": 1}, {"reward": "sof"}],
)  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"allowed|distinct"):
        choices(**wrong)
