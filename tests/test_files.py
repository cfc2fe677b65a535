"""User data: formats, columns, splits, prompts, and every kind of bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from autodidact.problem import Problem
from autodidact.tasks import rows
from autodidact.tasks.files import from_file

GSM8K = Path(__file__).parents[1] / "../shared/data/gsm8k"
ROWS = [
    {"question": f"{a}+{b}?", "solution": f"Count {b} on from {a}: {a + b}.", "answer": str(a + b)}
    for a in range(3, 7)
    for b in range(2, 7)
]


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def fault(path: Path | str, **options) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        from_file(path, **options)
    return str(caught.value)


def essence(problems) -> list[tuple]:
    return [(p.question, p.solution, p.answer) for p in problems]


@pytest.fixture
def formats(tmp_path):
    """The same rows in every format."""
    import pyarrow
    import pyarrow.parquet

    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_every_format_gives_the_same_task(formats, name):
    task = from_file(formats / name, test=0.25)
    same = from_file(formats / "a.jsonl", test=0.25)
    assert essence(task.train) == essence(same.train)
    assert essence(task.test) == essence(same.test)
    assert (len(task.train), len(task.test)) == (15, 5)
    problem = task.train[0]
    assert task.correct(problem, f"So it is \\boxed{{{problem.answer}}}.")
    assert not task.correct(problem, "So it is \\boxed{99}.")
    assert task.score([problem], ["\\boxed{99}"]) == [0.0]


def test_places_name_file_and_line(formats):
    places = {
        name: [problem.meta["_at"] for problem in from_file(formats / name, test=0).train[:2]]
        for name in ("a.jsonl", "a.json", "a.csv", "a.parquet")
    }
    assert places == {
        "a.jsonl": [f"{formats / 'a.jsonl'}:1", f"{formats / 'a.jsonl'}:2"],
        "a.json": [f"{formats / 'a.json'}:2", f"{formats / 'a.json'}:7"],
        "a.csv": [f"{formats / 'a.csv'}:2", f"{formats / 'a.csv'}:3"],
        "a.parquet": [f"{formats / 'a.parquet'}: row 1", f"{formats / 'a.parquet'}: row 2"],
    }


def test_lines_of_quoted_csv_fields(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'question,answer\r\n"a\r\nb",1\r\nc,2\r\n')
    assert [row.at for row in rows.read(path)] == [f"{path}:2", f"{path}:4"]


def test_bom_crlf_blank_lines_and_unicode_separators_are_no_fault(tmp_path):
    path = tmp_path / "a.jsonl"
    text = '{"question": "a\u2028b", "answer": 1}\r\n\r\n{"question": "c", "answer": 2.50}\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    task = from_file(path, test=0)
    assert [(p.question, p.answer) for p in task.train] == [("a\u2028b", "1"), ("c", "2.5")]
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffquestion,answer\r\nä,1\r\n".encode())
    assert [p.question for p in from_file(path, test=0).train] == ["ä"]


def test_numbers_as_answers_are_written_out(tmp_path):
    values = [18, -2.5, 1e16, 10**20, 0]
    path = write(tmp_path / "a.jsonl", [{"question": f"q{v}", "answer": v} for v in values])
    answers = [p.answer for p in from_file(path, test=0).train]
    assert answers == ["18", "-2.5", "10000000000000000", "1" + "0" * 20, "0"]


# Columns


def test_columns_are_mapped(tmp_path):
    records = [{"problem": "1+1?", "rationale": "Two: \\boxed{2}", "final": "2", "level": 3}]
    path = write(tmp_path / "a.jsonl", records)
    for columns in (
        "question=problem, solution=rationale,answer=final",
        {"question": "problem", "solution": "rationale", "answer": "final"},
    ):
        (problem,) = from_file(path, columns=columns, test=0).train
        assert essence([problem]) == [("1+1?", "Two: \\boxed{2}", "2")]
        assert problem.meta["level"] == 3
        assert problem.meta["final"] == "2"


def test_solution_and_answer_may_be_missing(tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"question": "Say hello."}, {"question": "b", "answer": ""}]
    )
    task = from_file(path, test=0)
    assert [(p.solution, p.answer) for p in task.train] == [(None, None)] * 2
    assert task.correct is None
    assert task.final is None
    assert task.score(task.train, ["x", "y"]) == [None, None]
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no solution"):
        task.privileged(task.train[0])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("question=problm", ":1: no column 'problm' for the question; columns present: problem"),
        ("question=problm", "did you mean 'problem'?"),
        (None, "no column 'question' for the question; columns present: problem, final"),
        ("question=problem,answer=finl", "no column 'finl' for the answer"),
        ("qestion=problem", "column role 'qestion' is unknown; allowed: question, solution"),
        ("question", "'question' has no column; allowed: question=NAME"),
        ("question=a,question=b", "'question' is named twice"),
    ],
)
def test_wrong_columns(tmp_path, columns, expected):
    path = write(tmp_path / "a.jsonl", [{"problem": "1+1?", "final": "2"}])
    for skip in (False, True):
        assert expected in fault(path, columns=columns, skip_bad_rows=skip)


# Solutions and answers


def test_gsm8k_format():
    if not GSM8K.is_dir():
        pytest.skip(f"no data in {GSM8K}")
    task = from_file(GSM8K)
    assert (task.name, len(task.train), len(task.test)) == ("gsm8k", 7473, 1319)
    problem = task.train[0]
    assert problem.answer == "72"
    assert problem.solution.startswith("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n")
    assert problem.solution.endswith("in April and May.\nThe final answer is \\boxed{72}.")
    assert all(task.correct(p, p.solution) for p in (*task.train, *task.test))
    alone = from_file(GSM8K / "train.jsonl", test_file=GSM8K / "test.jsonl", train=100, test=50)
    assert essence(alone.train) == essence(task.train[:100])
    assert essence(alone.test) == essence(task.test[:50])
    bare = from_file(GSM8K / "train.jsonl", train=1, test=1, closing=False)
    assert bare.train[0].solution.endswith("altogether in April and May.")


@pytest.mark.parametrize(
    ("row", "solution", "answer"),
    [
        ({"answer": "so 4\n#### 4"}, "so 4\nThe final answer is \\boxed{4}.", "4"),
        ({"solution": "s", "answer": "w\n#### 4"}, "s\nThe final answer is \\boxed{4}.", "4"),
        ({"solution": "so 4\n#### 4"}, "so 4\nThe final answer is \\boxed{4}.", "4"),
        ({"solution": "so \\boxed{\\frac12}"}, "so \\boxed{\\frac12}", "\\frac12"),
        ({"solution": "so \\boxed{0.5}", "answer": "1/2"}, "so \\boxed{0.5}", "1/2"),
        ({"solution": "cba", "answer": "cba"}, "cba", "cba"),
        ({"solution": "no answer"}, "no answer", None),
        ({"answer": "#### 4"}, None, "4"),
    ],
)
def test_solution_and_answer_are_told_apart(tmp_path, row, solution, answer):
    path = write(tmp_path / "a.jsonl", [{"question": "q", **row}])
    assert essence(from_file(path, test=0).train) == [("q", solution, answer)]


def test_verifier_is_chosen_by_the_answers(tmp_path):
    numbers = write(tmp_path / "n.jsonl", [{"question": "a", "answer": "1,000"}])
    texts = write(tmp_path / "t.jsonl", [{"question": "a", "answer": "x+1"}])
    task = from_file(numbers, test=0)
    assert task.correct(task.train[0], "\\boxed{1000.0}")
    assert not task.correct(task.train[0], "\\boxed{2 \\cdot 500}")
    task = from_file(texts, test=0)
    assert task.correct(task.train[0], "\\boxed{1+x}")
    task = from_file(texts, test=0, verifier="exact")
    assert not task.correct(task.train[0], "\\boxed{1+x}")
    assert "t.jsonl:1" in fault(texts, test=0, verifier="numeric")
    assert "did you mean 'numeric'?" in fault(numbers, verifier="nummeric")


# Splits


def test_held_out_problems_depend_on_their_text_and_the_seed_alone(tmp_path):
    task = from_file(write(tmp_path / "a.jsonl", ROWS), test=5)
    backwards = from_file(write(tmp_path / "b.jsonl", ROWS[::-1]), test=5)
    assert essence(task.test) == essence(backwards.test)[::-1]
    assert {p.question for p in task.train} | {p.question for p in task.test} == {
        row["question"] for row in ROWS
    }
    assert not {p.question for p in task.train} & {p.question for p in task.test}
    other = from_file(tmp_path / "a.jsonl", test=5, seed=1)
    assert essence(other.test) != essence(task.test)


def test_a_question_is_held_out_with_all_its_rows(tmp_path):
    records = [{"question": f"q{i % 10}", "answer": str(i)} for i in range(30)]
    task = from_file(write(tmp_path / "a.jsonl", records), test=3, duplicates="keep")
    assert len(task.test) == 9
    assert len(task.train) == 21
    assert len({p.question for p in task.test}) == 3
    assert not {p.question for p in task.train} & {p.question for p in task.test}


def test_no_question_in_both_splits(tmp_path):
    train = write(tmp_path / "a.jsonl", [{"question": "a"}, {"question": " b "}])
    test = write(tmp_path / "b.jsonl", [{"question": "c"}, {"question": "b"}])
    for duplicates in ("refuse", "keep"):
        message = fault(train, test_file=test, duplicates=duplicates)
        assert message.startswith(f"{train}:2: this question is held out at {test}:2")
    with pytest.warns(UserWarning, match="1 bad rows skipped"):
        task = from_file(train, test_file=test, skip_bad_rows=True)
    assert [p.question for p in task.train] == ["a"]
    assert len(task.test) == 2


@pytest.mark.parametrize(
    "options",
    [{"test": 20}, {"test": 21}, {"test": -1}, {"test": 1.5}, {"train": 0}, {"train": 99}],
)
def test_impossible_sizes(tmp_path, options):
    assert "allowed: " in fault(write(tmp_path / "a.jsonl", ROWS), **options)


# Prompts


def test_prompts(tmp_path):
    row = {"question": "What is {x}?", "solution": "It is \\boxed{4}.", "answer": "4"}
    task = from_file(write(tmp_path / "a.jsonl", [row]), test=0)
    problem = task.train[0]
    (student,), (teacher,) = task.prompt(problem), task.privileged(problem)
    boxed = "Reason step by step, and put your final answer within \\boxed{}."
    assert student == {"role": "user", "content": f"What is {{x}}?\n\n{boxed}"}
    assert teacher["role"] == "user"
    assert teacher["content"].startswith("What is {x}?\n\n")
    assert "begins ===\nIt is \\boxed{4}.\n=== " in teacher["content"]
    assert teacher["content"].endswith(boxed)
    bare = from_file(tmp_path / "a.jsonl", test=0, instruction="")
    assert bare.prompt(problem) == [{"role": "user", "content": "What is {x}?"}]
    with pytest.raises(ValueError, match="no solution"):
        task.privileged(Problem("q", answer="1"))


# Bad input

GOOD = b'{"question": "1+1?", "answer": "2"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", ": the file holds no rows"),
        ("a.jsonl", b"\n \n", ": the file holds no rows"),
        ("a.json", b"[]", ": the file holds no rows"),
        ("a.csv", b"question,answer\n", ": the file holds no rows"),
        ("a.txt", b"x", ": files .txt are not read; allowed: .jsonl"),
        ("a.jsonl", GOOD + b'{"question": "a" 3}\n', ":2: broken JSON at column 18"),
        ("a.jsonl", GOOD + b"\n[1]\n", ":3: found a list; allowed: one JSON object"),
        ("a.jsonl", GOOD + b'{"answer": "3"}', ":2: no question: column 'question' is missing"),
        ("a.jsonl", GOOD + b'{"question": null}', ":2: no question: column 'question' is null"),
        ("a.jsonl", GOOD + b'{"question": " "}', ":2: no question: column 'question' is empty"),
        ("a.jsonl", GOOD + b'{"question": 3}', ":2: column 'question' holds a int ('3'); allowed"),
        ("a.jsonl", GOOD + b'{"question": "a", "answer": [3]}', ":2: column 'answer' holds a list"),
        (
            "a.jsonl",
            GOOD + b'{"question": "a", "answer": true}',
            ":2: column 'answer' holds a bool",
        ),
        ("a.jsonl", GOOD + b'{"question": "a", "answer": NaN}', ":2: column 'answer' holds nan"),
        (
            "a.jsonl",
            GOOD + b'{"question": "a", "solution": 1}',
            ":2: column 'solution' holds a int",
        ),
        (
            "a.jsonl",
            GOOD + b'{"question": "a", "answer": "x #### "}',
            ":2: nothing stands after ##",
        ),
        ("a.jsonl", GOOD + b'{"question": "a\xff"}', ":2: byte 16 is no UTF-8"),
        ("a.jsonl", GOOD + b'{"question": "\\ud800"}', ":2: column 'question' holds half a surrog"),
        ("a.jsonl", GOOD + b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", ":2: JSON that"),
        ("a.jsonl", GOOD + b"[" * 100_000, ":2: JSON that cannot be read: maximum recursion"),
        ("a.jsonl", GOOD + b'{"question": " 1+1?"}', ":2: the same question as at"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), ":1: UTF-16 text; allowed: UTF-8"),
        ("a.json", b'[{"question": "a"},\n{"question" 1}]', ":2: broken JSON"),
        ("a.json", b'[{"question": "a"},\n', ":2: broken JSON"),
        ("a.json", b'[{"question": "a"},\n\n{"question": 1}]', ":3: column 'question' holds a int"),
        ("a.csv", b"question,answer\n1,2\n3\n", ":3: 1 fields; the header has 2"),
        ("a.csv", b"question,answer\n1,2,3\n", ":2: 3 fields; the header has 2"),
        ("a.csv", b"question,question\n1,2\n", ":1: a column name stands twice"),
        ("a.csv", b'question,answer\n1,2\n"3,4\n', ":3: broken CSV"),
        ("a.csv", b"question\n\xff\n", ":2: a byte that is no UTF-8"),
        ("a.parquet", b"PAR1xx", ": no readable Parquet file"),
    ],
)
def test_bad_files(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    assert fault(path).startswith(f"{path}{expected}")


def test_missing_files_and_names(tmp_path, monkeypatch):
    path = write(tmp_path / "problems.jsonl", ROWS)
    assert f"did you mean {str(path)!r}?" in fault(tmp_path / "problem.jsonl")
    assert "a data set of the hub is named owner/name" in fault("no_such_data")
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = fault("no_such_owner/no_such_data")
    assert message.startswith("no_such_owner/no_such_data: no data could be loaded from this")
    assert str(tmp_path) in fault(tmp_path / ".." / tmp_path.name, split="tran")


def test_bad_rows_can_be_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"{broken\n" + b'{"answer": "3"}\n' + GOOD + b'{"question": "b"}\n')
    rejected = tmp_path / "rejected.jsonl"
    with pytest.warns(UserWarning, match=r"3 bad rows skipped \(written to .*a\.jsonl:2: broken"):
        task = from_file(path, test=0, rejected=rejected)
    assert [p.question for p in task.train] == ["1+1?", "b"]
    lines = [json.loads(line) for line in rejected.read_text(encoding="utf-8").splitlines()]
    assert [line["at"] for line in lines] == [f"{path}:2", f"{path}:3", f"{path}:4"]
    assert lines[1]["row"] == {"answer": "3"}
    assert "no question" in lines[1]["reason"]
    path.write_bytes(b"{broken\n")
    with pytest.warns(UserWarning, match="1 bad rows"):
        assert "none of 1 rows can be used" in fault(path, skip_bad_rows=True)


# Folders of the library `datasets`


def test_local_folders(tmp_path):
    import datasets

    records = [{"question": row["question"], "answer": row["answer"]} for row in ROWS]
    datasets.disable_progress_bars()
    single, both = tmp_path / "single", tmp_path / "both"
    datasets.Dataset.from_list(records).save_to_disk(single)
    splits = {"train": records[:15], "test": records[15:]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(part) for name, part in splits.items()}
    ).save_to_disk(both)
    task = from_file(single, test=0.25)
    same = from_file(write(tmp_path / "a.jsonl", records), test=0.25)
    assert essence(task.train) == essence(same.train)
    assert essence(task.test) == essence(same.test)
    assert task.name == "single"
    assert task.train[0].meta["_at"].startswith(f"{single}: row ")
    task = from_file(both)
    assert (len(task.train), len(task.test)) == (15, 5)
    assert task.test[0].meta["_at"] == f"{both}[test]: row 1"
    assert "no split 'tran'; present: train, test" in fault(both, split="tran")
    plain = tmp_path / "plain"
    plain.mkdir()
    write(plain / "train.jsonl", records[:15])
    write(plain / "test.jsonl", records[15:])
    task = from_file(plain)
    assert (task.name, len(task.train), len(task.test)) == ("plain", 15, 5)
    write(plain / "train.json", records[:15])
    assert "several files for 'train': train.jsonl, train.json" in fault(plain)
