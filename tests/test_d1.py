"""GSM8K and MATH as d1 grades them: rewards to the letter, and the harness of its table."""

from __future__ import annotations

import json

import pytest
import torch
from recipes import d1_evaluation as recipe

from autodidact import masked
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.tasks import hendrycks
from autodidact.tasks.d1 import d1_gsm8k, d1_math
from autodidact.tasks.d1_rewards import gsm8k_number, gsm8k_reward, math_answer, math_reward, tags
from toys import WORDS

GOOD = "<reasoning>\nsix\n</reasoning>\n<answer>\n18\n</answer>\n"
LONG = GOOD.replace("six", "six\nand twelve")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two problems of each task, and a row that comes in training only."""
    place = tmp_path_factory.mktemp("data")
    gsm8k = [
        {"question": f"{n}+{n}?", "answer": f"It is <<{n}+{n}>>.\n#### {2 * n}"}
        for n in (1, 2, 500)
    ]
    math = [
        {"problem": f"Half of {n}?", "solution": f"So $\\boxed{{\\frac{{{n}}}{{2}}}}$."}
        for n in (1, 3, 5)
    ]
    for name, rows in (("gsm8k", gsm8k), ("math500", math)):
        (place / name).mkdir()
        for split, part in (("train", rows), ("test", rows[:2])):
            (place / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (place / "countdown").mkdir()
    (place / "countdown" / "test.jsonl").write_text('{"input": "2,3,4", "output": "5"}\n')
    (place / "sudoku").mkdir()
    (place / "sudoku" / "test.csv").write_text(
        "Puzzle,Solution\n4320004330100004,4321124334122134\n"
    )
    return place


ONE_LINE = "<reasoning>six</reasoning>  <answer>18</answer>"


@pytest.mark.parametrize(
    ("text", "published", "repaired"),
    [
        (GOOD, 3.5, 4.0),
        (LONG, 3.0, 4.0),
        (ONE_LINE, 3.0, 3.0),
        ("Well.\n" + GOOD, 3.0, 3.0),
        (GOOD.replace("18", "19"), 1.5, 2.0),
        ("18", 2.5, 2.5),  # without a tag the whole text is the answer
        ("", 0.0, 0.0),
    ],
)
def test_the_reward_of_gsm8k(text, published, repaired):
    """One form needs line breaks, and the other cannot pass one: nothing earns 4 as published."""
    assert gsm8k_reward(text, "18") == pytest.approx(published)
    assert gsm8k_reward(text, "18", multiline=True) == pytest.approx(repaired)


def test_each_character_after_the_last_tag_costs_twice():
    assert tags(GOOD) == pytest.approx(0.5)
    for n in (1, 10, 300):
        assert tags(GOOD + "x" * n) == pytest.approx(0.5 - 0.002 * n)
    assert tags(GOOD.rstrip()) == pytest.approx(0.5 - 0.001 * (len(GOOD) - 1) + 0.001)
    assert tags("<reasoning>\n" * 2) == 0 and tags("<reasoning>\n") == 0.125
    assert tags(GOOD + GOOD) == 0


def test_answers_are_compared_as_text():
    for given, earned in (("18", 2.5), ("18.0", 0.0), ("1,000", 0.0), ("-18", 0.0), ("7", 0.5)):
        assert gsm8k_reward(f"<answer>{given}</answer>", "18") == earned
    assert gsm8k_reward("<answer>1,000</answer>", "1,000") == 2.0
    assert gsm8k_reward("<answer>18</answer><answer>7</answer>", "18") == 0.5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\boxed{...} then \boxed{ 12 } and \boxed{13}", 12),
        (r"\boxed{about 3.5 of 7}", 3.5),
        (r"\boxed{none} <answer>4 or 5</answer> 6", 5),
        ("<answer></answer> 6 <answer>7 apples 8", 8),
        ("the sum is -9.", -9),
        ("nothing", None),
    ],
)
def test_the_evaluation_reads_numbers(text, number):
    assert gsm8k_number(text) == number


def test_the_form_of_math_cannot_see_a_box():
    """It looks for an escape: a tag earns .75 and none .25, whatever is boxed."""
    assert math_reward("<answer>\\boxed{3}</answer>", "3") == 2.75
    assert math_reward("<answer>4</answer>", "3") == 0.75
    assert math_reward("\\boxed{3}", "3") == 2.25
    assert math_reward("3", "3") == 2.25  # the whole text, without a box
    assert math_reward("\\boxed{3", "3") == 0.25
    assert math_reward("<answer>\x08oxed{3}</answer>", "4") == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dfrac12", "\\frac{1}{2}"), ("0.5", "1/2"), (".5", "\\frac{1}{2}"), ("x=3", "3"),
        ("\\sqrt3", "\\sqrt{3}"), ("5\\text{ cm}", "5"), ("50\\%", "50"), ("\\$5", "5"),
        ("90^\\circ", "90"), ("\\left(1, 2\\right)", "(1,2)"), ("\\frac1{72}", "\\frac{1}{72}"),
        ("a/b", "a/b"), ("\\sqrt", "\\sqrt"),
    ],
)  # fmt: skip
def test_equal_answers_of_math(one, other):
    assert hendrycks.same(one, other) and hendrycks.same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.25", "\\frac{1}{4}"),
        ("1,000", "1000"),
        ("a/b", "a / b"),
        ("xyz=3", "3"),
        ("04/5", "4/5"),
    ],
)
def test_different_answers_of_math(one, other):
    """Some of which are the same mathematics: so is the published comparison."""
    assert not hendrycks.same(one, other)


def test_boxes_are_read_to_their_brace():
    for text, inside in (
        (r"\boxed{1} \boxed{\frac{1}{2}} x", r"\frac{1}{2}"),
        (r"$\boxed 7$ eggs", "7"),
        (r"\fbox{2}", r"\fbox{2}"),
        (r"\boxed{2", None),
        ("2", None),
    ):
        assert hendrycks.boxed(text) == inside
    assert math_answer("<answer> 2 </answer>") == "2"
    assert math_answer(r"\boxed{3} <answer> 2 </answer>") == "3"


def test_the_tasks(folder):
    """Questions, answers, prompts; each solution earns all that its task can give."""
    gsm8k, math = (
        d1_gsm8k(str(folder / "gsm8k"), multiline=True),
        d1_math(str(folder / "math500")),
    )
    assert [p.answer for p in gsm8k.train] == ["2", "4", "1000"] and len(gsm8k.test) == 2
    assert [p.answer for p in math.test] == [r"\frac{1}{2}", r"\frac{3}{2}"]
    for task, most in ((gsm8k, 4.0), (math, 2.75)):
        for problem in task.train:
            assert task.score([problem], [problem.solution]) == pytest.approx([most])
            assert task.correct(problem, problem.solution)
            assert not task.correct(problem, "no")
            [message] = task.prompt(problem)
            assert message["content"].startswith(
                "\nRespond in the following format:\n<reasoning>\n"
            )
            assert message["content"].endswith("\n\n" + problem.question)
            assert problem.solution in task.privileged(problem)[0]["content"]
    [message] = d1_gsm8k(str(folder / "gsm8k"), wording="evaluation").prompt(gsm8k.test[0])
    assert message["content"].startswith("You are a math expert.")
    assert message["content"].count(r"\boxed{") == 2
    assert len(d1_gsm8k(str(folder / "gsm8k"), train=1, test=0).train) == 1


def test_bad_data_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'training'"):
        d1_gsm8k(str(folder / "gsm8k"), wording="trainin")
    (tmp_path / "train.jsonl").write_text('{"problem": "x", "solution": "no box"}')
    with pytest.raises(ValueError, match=r"train.jsonl:1: no answer after ####"):
        d1_math(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"train.jsonl:1: columns problem, solution; needed: question"
    ):
        d1_gsm8k(str(tmp_path))


def asked_of(row: dict) -> Problem:
    meta = {}
    if row["task"] == "countdown":
        meta = dict(zip(("numbers", "target"), row["truth"], strict=True))
    return Problem(row["question"], answer=str(row["truth"]), meta=meta)


REAL = {"gsm8k": (161, 205), "math500": (26, 84), "countdown": (7, 37), "sudoku": (23 / 8, 37)}
"""Right by the published reading, of Sudoku cells of 8 each. A reader finds 164, 30 and 9 of the
first three right: two of Countdown are in a box that is not closed, and before an empty one."""


def test_real_outputs_are_read_as_the_evaluation_reads_them(shared_data, folder):
    """LLaDA-8B-Instruct at length 256, a sample of what gives 76.7, 32.4, 19.5 and 6.7 in all."""
    readers = recipe.parts(folder, list(REAL))
    for name, (right, count) in REAL.items():
        lines = (shared_data / "llada" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        worth = [readers[name].read(asked_of(row), row["completion"])["accuracy"] for row in rows]
        assert (sum(worth), len(rows)) == (pytest.approx(right), count), name


def test_countdown_and_sudoku_are_read_as_published():
    assert recipe.expression(r"so \boxed{49 \times 2 = 98}") == "49 * 2"
    assert (
        recipe.expression("<answer> 1+2 </answer>") == "1+2" and recipe.expression("3*4") == "3*4"
    )
    puzzle, key = "4320004330100004", "4321124334122134"
    problem = Problem(f"Solve {puzzle}", answer=key, meta={"puzzle": puzzle})
    both = {"accuracy": 1.0, "exact": 1.0}
    assert recipe.read_sudoku(problem, f"<answer>\n{key[:8]}\n{key[8:]}\n</answer>") == both
    assert recipe.read_sudoku(problem, f"<answer>{key[:8]}</answer>") == {
        "accuracy": 3 / 8,
        "exact": 0,
    }
    assert recipe.read_sudoku(problem, "no") == {"accuracy": 0.0, "exact": 0.0}


@pytest.fixture(scope="module")
def llada(tokenizer, tmp_path_factory):
    """A random LLaDA in its published layout."""
    config = {
        "model_type": "llada", "d_model": 16, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 32,
        "vocab_size": WORDS, "max_sequence_length": 2048, "mask_token_id": 0, "eos_token_id": 4,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = masked.LAYOUTS["llada"].make(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    place = tmp_path_factory.mktemp("model")
    masked.publish(LM(model, tokenizer), place, config)
    return place


def test_the_harness_prints_a_line_for_each_task_and_length(llada, folder, capsys):
    names = ["gsm8k", "math500", "countdown", "sudoku", "sudoku_clean"]
    options = ["--model", str(llada), "--data", str(folder), "--problems", "2", "--tasks", *names]
    assert recipe.main([*options, "--lengths", "4", "8"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["task", "length", "n", "accuracy"] and len(lines) == 10
    for line, name in zip(lines, [name for name in names for _ in range(2)], strict=True):
        found = line.split()
        length = int(found[1])
        assert found[0] == name and found[2] == ("1" if name in ("countdown", "sudoku") else "2")
        assert int(found[-1]) == length // 2  # half as many steps as tokens, each one reading


def test_a_model_that_knows_the_answers_gets_them_right(llada, folder, monkeypatch):
    """The interval of a perfect score is a point, that of one in two is as wide as can be."""
    models = Models(load(str(llada)))
    part = recipe.parts(folder, ["gsm8k"])["gsm8k"]
    texts = iter(["2 </reasoning><answer>2</answer>", "<answer>4</answer>", "2", "5"])
    monkeypatch.setattr(type(models.policy), "text", lambda self, ids: next(texts))
    assert recipe.measure(models, "gsm8k", part, 4, None).scores["accuracy"] == (1.0, 1.0, 1.0)
    assert recipe.measure(models, "gsm8k", part, 4, None).scores["accuracy"] == (0.5, 0.0, 1.0)
