"""F8: broken data stops before a model loads, in one line with file and line; never a traceback."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autodidact.cli import main
from autodidact.problem import Task
from autodidact.tasks import values
from autodidact.tasks.files import from_file

GOOD = b'{"question": "1+1?", "solution": "Two: 2.", "answer": "2"}\n'
DEEP = b'{"question": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}\n"
HALF = b'{"question": "a", "x": {"y": ["\\udc00"]}}\n'
CORPUS = [
    ("a.jsonl", GOOD + b'{"question": "\xff"}\n', ":2: byte 15 is no UTF-8"),
    ("a.jsonl", GOOD.decode().encode("utf-16-le"), ":1: UTF-16 text or no text at all"),
    ("a.jsonl", GOOD.decode().encode("utf-16"), ":1: UTF-16 text"),
    ("a.jsonl", GOOD.decode().encode("utf-32"), ":1: UTF-16 text"),
    ("a.jsonl", b"\xef\xbb\xbf" + GOOD + b"{\r\n", ":2: broken JSON at column 3"),
    ("a.jsonl", GOOD.replace(b"\n", b"\r\n") + b'{"question": ""}\r\n', ":2: no question"),
    ("a.jsonl", GOOD + DEEP, ":2: column 'x' holds lists or objects nested deeper than 64"),
    ("a.jsonl", GOOD + b'{"a":' * 5000, ":2: JSON that cannot be read"),
    ("a.jsonl", GOOD + HALF, ":2: column 'x' holds half a surrogate pair"),
    ("a.jsonl", GOOD + b'{"question": "a", "\\ud800": 1}\n', ":2: column '\\ud800' is named with"),
    ("a.jsonl", GOOD + b'{"question": {"a": 1}}\n', ":2: column 'question' holds a dict"),
    ("a.jsonl", GOOD + b'{"qestion": "b"}\n', ":2: no question: column 'question' is missing"),
    ("a.jsonl", GOOD + b'{"question": "b", "answer": 1e999}\n', ":2: column 'answer' holds inf"),
    ("a.jsonl", GOOD + b'{"question": "b", "answer": NaN}\n', ":2: column 'answer' holds nan"),
    ("a.jsonl", GOOD + b'"text"\n', ":2: found a str; allowed: one JSON object"),
    ("a.jsonl", GOOD + b"\0\0\0\0\n", ":2: broken JSON at column 1"),
    ("a.jsonl", GOOD + GOOD, ":2: the same question as at"),
    ("a.jsonl", b'{"question": "a", "id": 7}\n{"question": "b", "id": 7}\n', ":2: the same id 7 as at"),
    ("a.jsonl", b"\x1b[31m\n", ":1: broken JSON at column 1: Expecting value; found '\\x1b[31m'"),
    ("a.jsonl", b'{"\\u001b[2J\\n": 1}\n', ":1: no column 'question' for the question; columns present: '\\x1b[2J\\n'"),
    ("a.jsonl", b"", ": the file holds no rows"),
    ("a.json", b'{"question": "a"}\n[]', ":2: found a list"),
    ("a.json", b"[" * 100_000, ": JSON that cannot be read"),
    ("a.json", b'[{"question": "a"}, 3]', ":1: found a int"),
    ("a.csv", b'question,answer\n"1,2\n3,4\n', ":2: broken CSV: unexpected end of data"),
    ("a.csv", b"question,answer\n" + b"x" * 200_000 + b",1\n", ":2: broken CSV: field larger than"),
    ("a.csv", b"question\0,answer\na,1\n", ":2: no column 'question'"),
    ("a.csv", b"\xff\xfeq\0", ":1: UTF-16 text"),
    ("a.tsv", b"question\tanswer\n1\n", ":2: 1 fields; the header has 2: question, answer"),
    ("a.csv", ",".join(f"c{i}" for i in range(5000)).encode() + b"\n" + b"," * 4999 + b"\n", ":2: no column 'question'"),
    ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", ": no readable Parquet file"),
    ("a.parquet", b"", ": no readable Parquet file"),
    ("a.md", b"# 1+1?", ": files .md are not read; allowed"),
]  # fmt: skip


def said(path: Path | str, **options) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        from_file(path, **options)
    return str(caught.value)


@pytest.mark.parametrize(("name", "content", "expected"), CORPUS)
def test_the_corpus(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    message = said(path)
    assert message.startswith(f"{path}{expected}")
    assert message.isprintable(), "one line, and nothing that steers a terminal"
    assert len(message) < 700


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.mkdir(), "no data could be loaded"),
        (lambda path: path.symlink_to("nowhere.jsonl"), "a link to 'nowhere.jsonl', where nothing"),
        (lambda path: path.symlink_to(path.name), "a link to 'a.jsonl', where nothing is"),
        (os.mkfifo, "neither a file nor a folder"),
        (lambda path: None, "no such file or folder"),
    ],
)
def test_what_is_no_file(tmp_path, make, expected):
    path = tmp_path / "a.jsonl"
    make(path)
    assert expected in said(path)
    assert str(path) in said(path)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    assert str(path) in said(tmp_path / "b.jsonl", test_file=path)


def test_a_giant_row(tmp_path, monkeypatch):
    """16 million bytes are the limit; here of 1000, so that the test is quick."""
    assert values.LONGEST == 16_000_000
    monkeypatch.setattr("autodidact.tasks.rows.LONGEST", 1000)
    monkeypatch.setattr(values, "LONGEST", 500)
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + json.dumps({"question": "x" * 2000}).encode())
    assert said(path).startswith(f"{path}:2: 2016 bytes in a row; at most 1000 are read")
    path.write_bytes(GOOD + json.dumps({"question": "x" * 600}).encode())
    assert said(path).startswith(f"{path}:2: column 'question' holds 600 characters; at most 500")


def test_nothing_odd_about_odd_text(tmp_path):
    """NUL, control characters, tags, a NaN in words, and digits of others are text like any other."""
    odd = [
        "a\0b",
        "\x1b[31m",
        "</script><script>",
        "NaN",
        "٣",
        "{question}",
        "%s",
        "<|end|>",
        "\u202e",
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": text}) + "\n" for text in odd))
    task = from_file(path, test=0)
    assert [problem.question for problem in task.train] == odd
    assert all(odd[i] in task.prompt(p)[0]["content"] for i, p in enumerate(task.train))


# Bytes changed at random


def valid(folder: Path) -> dict[str, bytes]:
    """The same rows in every format."""
    import pyarrow
    import pyarrow.parquet

    records = [
        {"question": f"{i}+1?", "solution": f"It is {i + 1}.", "answer": str(i + 1)}
        for i in range(6)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "v.parquet")
    lines = [",".join(records[0]), *(",".join(f'"{v}"' for v in row.values()) for row in records)]
    return {
        ".jsonl": "\n".join(map(json.dumps, records)).encode(),
        ".json": json.dumps(records, indent=1).encode(),
        ".csv": "\n".join(lines).encode(),
        ".tsv": "\n".join(lines).replace(",", "\t").encode(),
        ".parquet": (folder / "v.parquet").read_bytes(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated")


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@settings(
    max_examples=80, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(seed=st.integers(0, 2**32))
def test_changed_bytes_are_a_task_or_an_error_with_the_file(folder, kind, seed):
    rng, content = random.Random(seed), bytearray(valid(folder)[kind])
    for _ in range(rng.randint(1, 6)):
        at, size = rng.randrange(len(content) + 1), rng.choice([0, 1, 1, 4, 30])
        content[at : at + size] = rng.choice(
            [
                rng.randbytes(rng.randint(0, 4)),
                b'"',
                b"\n",
                b"\\",
                b"{",
                b"]",
                b",",
                b"\0",
                b"9" * 400,
                b"\\ud800",
            ]
        )
    path = folder / f"m{kind}"
    path.write_bytes(bytes(content))
    try:
        task = from_file(path, test=0)
    except ValueError as error:
        reason = str(error)
    else:
        reason = f"{path} is a task" if isinstance(task, Task) and task.train else "nothing"
    assert reason.startswith(str(path))
    assert "\n" not in reason


# From the command line


@pytest.fixture
def line(capsys, tmp_path, monkeypatch):
    """Runs a command line that must be refused. Returns the one line that it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autodidact.model.load", lambda *_, **__: pytest.fail("a model was loaded"))

    def run(*tokens: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(tokens)
        found = capsys.readouterr()
        assert stop.value.code == 2
        assert found.out == ""
        assert len(found.err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
        return found.err

    return run


@pytest.mark.parametrize(
    "command", [("train", "opsd", "--steps", "1", "--out", "run"), ("evaluate",)]
)
def test_the_command_line_says_file_and_line(line, command):
    Path("a.jsonl").write_bytes(GOOD + b"{\n")
    assert line(*command, "--data", "a.jsonl").startswith("autodidact: a.jsonl:2: broken JSON at")


def test_bad_rows_are_skipped_and_kept_when_asked(tmp_path, line, monkeypatch):
    """Reachable from the command line, the file written whole, never over another."""
    from autodidact import calls, settings

    rows = [GOOD.replace(b"1+1", str(i).encode()) for i in range(4)]
    Path("a.jsonl").write_bytes(b"".join(rows) + b"{\n" + b'{"answer": "3"}\n')
    with pytest.warns(UserWarning, match="2 bad rows skipped; the first: a.jsonl:5: broken JSON"):
        task = calls.make(calls.task, settings.setting(data="a.jsonl", skip_bad_rows=True)["task"])
    assert len(task.train) + len(task.test) == 4
    setting = settings.setting(data="a.jsonl", rejected="bad.jsonl")["task"]
    for _ in range(2):  # a resumed run, and another arm, write the same again
        with pytest.warns(UserWarning, match=r"2 bad rows skipped \(written to bad.jsonl\)"):
            calls.make(calls.task, setting)
        found = [json.loads(each) for each in Path("bad.jsonl").read_text().splitlines()]
        assert [(row["at"], row["row"]) for row in found] == [
            ("a.jsonl:5", {}),
            ("a.jsonl:6", {"answer": "3"}),
        ]
    Path("bad.jsonl").write_text("precious")
    tokens = ("train", "opsd", "--data", "a.jsonl", "--out", "run", "--rejected")
    assert "'bad.jsonl' exists and holds something else; allowed: a new file" in line(
        *tokens, "bad.jsonl"
    )
    assert Path("bad.jsonl").read_text() == "precious"
    assert "cannot be written: No such file or directory" in line(*tokens, "nowhere/bad.jsonl")
    Path("link").symlink_to("elsewhere")
    assert "'link' exists and holds something else" in line(*tokens, "link")
    assert "belongs to data" in line("train", "opsd", "--skip-bad-rows", "--out", "run")
    monkeypatch.setattr("os.fsync", full)
    assert "'new.jsonl' cannot be written: No space left" in line(*tokens, "new.jsonl")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl", "bad.jsonl", "link"]


def full(handle: int) -> None:
    raise OSError(28, "No space left on device")
