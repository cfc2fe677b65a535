"""Final answers, verifiers, hostile text, and the file grader."""

from __future__ import annotations

import json
import os
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from autodidact.problem import Problem
from autodidact.tasks import mathworker
from autodidact.tasks.answers import answer, canonical, final, gold, normalise, number, stated
from autodidact.tasks.verifiers import VERIFIERS, exact, mathematics, numeric, reference, verifier
from autodidact.tasks.verify import verify
from toys import no_hang

SHARED = Path(__file__).parents[1] / "../shared/data"


def problem(text: str) -> Problem:
    return Problem("q", answer=text)


# Finding the answer


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("so \\boxed{18}.", "18"),
        ("\\boxed{1} then \\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{5} and the box of \\boxed{6", "5"),
        ("\\boxed{5} and \\boxed{}", "5"),
        ("a\n#### 18", "18"),
        ("a\n#### 18\n\nQuestion: next", "18"),
        ("#### Step 1\nx\n#### Step 2\nA: 3", "3"),
        ("a\n#### x + 1", "x + 1"),
        ("<answer>\n 12 </answer>", "12"),
        ("<answer>7", "7"),
        ("Q: b?\nA: 18", "18"),
        ("**A:** 18 eggs", "18 eggs"),
        ("The answer is 18.", "18"),
        ("The answer is 3.5. I checked.", "3.5"),
        ("the final answer to the question is: **18**.", "18**"),
        ("Final Answer: $\\frac12$", "$\\frac12$"),
        ("**Answer:**\n\n18", "18"),
        ("I think it is 18", None),
        ("", None),
        ("<think>The answer is 3, or \\boxed{3}</think>The answer is 4", "4"),
        ("\\boxed{18}<|eot_id|><|endoftext|>", "18"),
        ("The answer is 18<|im_end|>", "18"),
        # the order of the rules
        ("\\boxed{1}\n#### 2\nA: 3\nThe answer is 4. 5", "1"),
        ("A: 3\nThe answer is 4. 5\n#### 2", "2"),
        ("The answer is 4. <answer>6</answer>\nA: 3", "6"),
        ("The answer is 4.\nA: 3", "3"),
        ("The answer is 4. I saw 5.", "4"),
    ],
)
def test_stated(completion, expected):
    assert stated(completion) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("first 3, then 1,234.50 in all", "1,234.50"),
        ("from 10-4", "4"),
        ("it falls to -4 degrees", "-4"),
        ("it costs -$4", "-$4"),
        ("f(2)-3", "3"),
        ("that is 3/4", "3/4"),
        ("on 3/4/2020", "4/2020"),
        ("version 1.2.3", "1.2"),
        ("8*3=24\n7+24=31", "31"),
        ("no number", None),
        ("٣", None),
    ],
)
def test_the_last_number_is_the_last_resort(completion, expected):
    assert stated(completion) is None
    assert answer(completion) == expected


# Normalising


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", 18),
        ("18.", 18),
        ("18.0", 18),
        ("+5", None),
        ("-5", -5),
        ("- 5", -5),
        ("\u22125", -5),
        ("$1,234.50", Fraction(2469, 2)),
        ("-$5", -5),
        ("\\$18.90", Fraction(189, 10)),
        ("€3", 3),
        ("1{,}000", 1000),
        ("50%", 50),
        ("50\\%", 50),
        ("180^\\circ", 180),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("4/8", Fraction(1, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\dfrac34", Fraction(-3, 4)),
        ("\\frac 3 4", Fraction(3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("-1\\frac{1}{2}", Fraction(-3, 2)),
        ("18 eggs", 18),
        ("18 eggs per day", 18),
        ("18\\text{ cm}", 18),
        ("18 km/h", 18),
        ("5 m", 5),
        ("She makes $18", 18),
        ("x = 18", 18),
        ("9 * 2 = 18", 18),
        ("\\(18\\)", 18),
        ("**18**", 18),
        # no numbers: calculations, several numbers, words that change the number
        ("8/2", None),
        ("9*2", None),
        ("3+4", None),
        ("2(9)", None),
        ("x", None),
        ("3x", None),
        ("2\\pi", None),
        ("2 pi", None),
        ("sqrt 18", None),
        ("3 million", None),
        ("not 18", None),
        ("3 or 4", None),
        ("3, 4", None),
        ("a = 3, b = 4", None),
        ("3:30", None),
        ("x < 5", None),
        ("1/0", None),
        ("1e3", None),
        ("1_000", None),
        ("٣", None),
        ("１８", None),
        ("", None),
    ],
)
def test_number(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"."):
            number(text)
    else:
        assert number(text) == expected
        assert canonical(text) == str(Fraction(expected))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x+1", "x + 1"),
        ("\\left( 1, 2 \\right]", "(1,2]"),
        ("\\dfrac{1}{x}", "\\frac{1}{x}"),
        ("\\frac12", "\\frac{1}{2}"),
        ("\\text{Navin}", "Navin"),
        ("$x$.", "x"),
        ("a \\, b", "a b"),
        ("'yes'", "yes"),
    ],
)
def test_normalise(a, b):
    assert normalise(a) == normalise(b)


def test_equal_answers_are_equal_strings():
    same = ["18", "18.0", "$18", "18 eggs", "\\boxed{18}", "A: 18.", "36/2 = 18"]
    assert {final(text) for text in same} == {"18"}
    assert {final(text) for text in ("0.5", "\\boxed{\\frac12}", "A: 1/2")} == {"1/2"}
    assert normalise("leftover") == "leftover"
    assert normalise("X") != normalise("x")


def test_gold():
    assert gold("He has 4*2 = <<4*2=8>>8.\n#### 8") == "8"
    assert gold("so \\boxed{x+1}") == "x+1"
    assert gold(" 18 ") == "18"


# Verifiers


def test_numeric():
    assert numeric(problem("18"), "It is $18.00")
    assert numeric(problem("so 18\n#### 18"), "\\boxed{18}")
    assert numeric(problem("1/3"), "\\boxed{\\frac{1}{3}}")
    assert not numeric(problem("1/3"), "\\boxed{0.333333333}")
    assert not numeric(problem("18"), "\\boxed{19}")
    assert not numeric(problem("18"), "")
    assert numeric(problem("36/2"), "18")  # a reference may be a calculation, an answer may not
    assert not numeric(problem("14"), "\\boxed{2*(3+4)}")
    assert not numeric(problem("18"), "\\boxed{36/2}")
    assert reference(problem("2*(3+4)")) == 14
    with pytest.raises(ValueError, match="abc"):
        numeric(problem("abc"), "18")
    with pytest.raises(ValueError, match="no answer to compare with"):
        numeric(Problem("q"), "18")


def test_exact():
    assert exact(problem("cba"), "cba")
    assert exact(problem("cba"), "The answer is cba.")
    assert not exact(problem("cba"), "CBA")
    assert not exact(problem("18"), "18.0")
    assert exact(problem("New York"), "\\boxed{\\text{New York}}")
    assert VERIFIERS["exact"].final(" cba\n") == "cba"


@pytest.mark.parametrize(
    ("truth", "given", "right"),
    [
        ("16 \\sqrt{3}", "16\\sqrt3", True),
        ("\\frac 34", "0.75", True),
        ("3, 5, 7", "3, 7, 5", True),
        ("3, 5, 7", "3, 7", False),
        ("p - q", "-q+p", True),
        ("p - q", "q-p", False),
        ("\\text{Navin}", "Navin", True),
        ("\\left( \\frac{3}{2}, -13 \\right)", "(1.5,-13)", True),
        ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty,2)\\cup(3,\\infty)", True),
        ("[0, 1)", "[0,1]", False),
        ("50\\%", "0.5", True),
        ("x = 5", "5", True),
        (
            "\\begin{pmatrix} -2 \\\\ 1 \\end{pmatrix}",
            "\\begin{pmatrix}-2\\\\1\\end{pmatrix}",
            True,
        ),
        ("2k+2", "2(k+1)", True),
        ("5", "\\text{five}", False),
    ],
)
def test_mathematics(truth, given, right):
    assert mathematics(problem(truth), f"Thus \\boxed{{{given}}}.") is right


def test_mathematics_agrees_with_trl_on_real_outputs():
    """On every completion with a box; TRL reads nothing else."""
    path = SHARED / "llada/math500.jsonl"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    accuracy_reward = pytest.importorskip("trl.rewards").accuracy_reward
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [r for r in rows if f"\\boxed{{{stated(r['completion'])}}}" in r["completion"]]
    ours = [mathematics(problem(row["truth"]), row["completion"]) for row in rows]
    messages = [[{"role": "assistant", "content": row["completion"]}] for row in rows]
    theirs = accuracy_reward(messages, [f"\\boxed{{{row['truth']}}}" for row in rows])
    different = [
        (row["truth"], stated(row["completion"]), a, b)
        for row, a, b in zip(rows, ours, theirs, strict=True)
        if a != b
    ]
    print(f"{len(rows)} completions, {sum(ours)} right, different: {different}")
    assert len(rows) == 78
    assert sum(ours) == 29
    assert different == []


def test_mathematics_works_in_threads():
    found = []

    def work(shift):
        found.extend(
            mathematics(problem(f"x+{i}"), f"\\boxed{{{i}+x}}") for i in range(shift, 40, 4)
        )

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_verifier_by_name():
    assert verifier("numeric").correct is numeric
    with pytest.raises(ValueError, match="did you mean 'mathematics'"):
        verifier("mathematic")


# Hostile text

HOSTILE = [
    "9**9**9**9",
    "9^{9^{9^9}}",
    "9^{99999}",
    "100000000!",
    "3!!!!",
    "(" * 100_000 + "1" + ")" * 100_000,
    "(" * 200 + "18" + ")" * 200,
    "\\frac{" * 200 + "18" + "}{1}" * 200,
    "1" * 1_000_000,
    "1" * 511,
    "1e999",
    "18\0",
    "\x1b[31m18",
    "１８",
    "__import__('os').system('touch pwned')",
    "\\text{__import__('os').system('touch pwned')}",
    "\\{\\text{open('pwned','w')},1\\}",
    "(lambda: 18)()",
    "f'{9*2}'",
    "\\boxed{" * 150_000,
    "answer is" * 100_000,
    "answer " * 140_000,
    "1/" * 500_000,
    "1," * 500_000,
    "#" * 1_000_000,
    "<answer>" * 100_000,
    "A:" * 500_000,
    "\n" * 1_000_000,
    " " * 1_000_000 + "x",
    "<|" * 500_000,
]


@pytest.mark.parametrize("verifies", [numeric, exact, mathematics])
def test_hostile_text_is_wrong_and_harmless(verifies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killed = mathworker.WORKER.killed
    for text in HOSTILE:
        for wrapped in (f"\\boxed{{{text}}}", f"#### {text}", f"<answer>{text}</answer>"):
            assert verifies(problem("17"), wrapped) is False, text[:40]
    assert verifies(problem("17"), "\\boxed{17}")
    assert mathworker.WORKER.killed == killed, "something hung"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_to_its_end(text):
    """Some 0.02 s; with work that grows as the square of the text, many minutes."""
    with no_hang():
        for wrapped in (text, f"\\boxed{{{text}}}", f"The answer is {text}"):
            assert numeric(problem("17"), wrapped) is False


BUSY = [
    "2^{1000}",
    "2^{2^{2}}",
    "2**3",
    "100!",
    "3!!",
    "1" * 101,
    "1" * 513,
    "1\0",
    "(" * 33 + "1" + ")" * 33,
    "{" * 33 + "1" + "}" * 33,
]


@pytest.mark.parametrize("text", BUSY)
def test_busy_text_never_reaches_math_verify(text, monkeypatch):
    def ask(gold, answer):
        raise AssertionError(f"{answer!r} was asked")

    monkeypatch.setattr(mathworker.WORKER, "ask", ask)
    mathworker.equal.cache_clear()
    assert mathworker.equal("17", text) is False
    assert mathworker.equal(text, "17") is False
    for fine in ("2^{100}", "x^{2}+y^{2}", "10!", "(" * 32 + "1" + ")" * 32, "1" * 100):
        with pytest.raises(AssertionError, match="was asked"):
            mathworker.equal("17", fine)


def test_a_hang_is_killed_and_the_next_call_works(monkeypatch):
    monkeypatch.setattr(mathworker, "WALL", 0.3)
    mathworker.equal.cache_clear()
    killed = mathworker.WORKER.killed
    assert mathematics(problem("17"), "\\boxed{((x+1)^{999}+y)^{99}}") is False
    assert mathworker.WORKER.killed == killed + 1
    monkeypatch.undo()
    assert mathematics(problem("k+1"), "\\boxed{1+k}")


def test_a_dead_worker_is_replaced():
    assert mathematics(problem("k+2"), "\\boxed{2+k}")
    mathworker.WORKER.process.kill()
    mathworker.WORKER.process.wait()
    assert mathematics(problem("k+3"), "\\boxed{3+k}")


# The file grader


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_verify_grades_a_file(tmp_path):
    rows = [
        {"question": "a", "completion": "so \\boxed{18}", "answer": "x\n#### 18", "id": 7},
        {"question": "a", "completion": "so 19", "answer": 18},
        {"question": "b", "completion": "", "answer": 18.0},
        {"question": "c", "completion": "It is $18.", "answer": "18"},
    ]
    grades = verify(write(tmp_path / "a.jsonl", *rows), "gsm8k")
    assert grades.correct == (True, False, False, True)
    assert grades.accuracy == 0.5
    grades.write(tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [{**r, "correct": c} for r, c in zip(rows, grades.correct, strict=True)]


@pytest.mark.parametrize(
    ("task", "completion", "truth"),
    [
        ("math", "\\boxed{1+x}", "x+1"),
        ("numeric", "18 eggs", "18"),
        ("exact", "cba", "cba"),
        ("random_calculation", "8*3=24\n7+24=31", "31"),
        ("random_calculation", "which is \\boxed{-\\frac{3}{4}}", "-\\frac{3}{4}"),
    ],
)
def test_verify_knows_the_tasks(tmp_path, task, completion, truth):
    path = tmp_path / "a.jsonl"
    write(path, {"question": "q", "completion": completion, "answer": truth})
    assert verify(path, task).correct == (True,)
    write(path, {"question": "q", "completion": "\\boxed{7777}", "answer": truth})
    assert verify(path, task).correct == (False,)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "a", "complétion": "x", "answer": "1"}, ":2: no 'completion'; columns of"),
        ({"question": "a", "completion": "x"}, ":2: no 'answer'; columns of this row"),
        ({"question": "a", "completion": "x", "answer": None}, ":2: no 'answer'"),
        (
            {"question": "a", "completion": ["x"], "answer": "1"},
            ":2: column 'completion' holds a l",
        ),
        ({"question": "a", "completion": "x", "answer": "abc"}, ":2: "),
    ],
)
def test_verify_names_file_and_line(tmp_path, row, expected):
    good = {"question": "a", "completion": "1", "answer": "1"}
    path = write(tmp_path / "a.jsonl", good, row)
    with pytest.raises(ValueError, match=r".") as caught:
        verify(path, "gsm8k")
    assert str(caught.value).startswith(f"{path}{expected}")


def test_verify_refuses_unknown_tasks_and_broken_files(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="did you mean 'gsm8k'"):
        verify(path, "gsm8")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: broken JSON"):
        verify(path, "gsm8k")
    with pytest.raises(ValueError, match=r"did you mean '.*a\.jsonl'"):
        verify(tmp_path / "b.jsonl", "gsm8k")
