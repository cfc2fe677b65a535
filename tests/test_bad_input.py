"""Bad input is refused before work starts: a line or two, exit code 2, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodidact.cli import main

GOOD = {"question": "1+2", "solution": "1+2=3", "answer": "3"}
RUN = ("--steps", "1", "--rows", "8", "--length", "8", "--out", "run")


def row(**changes) -> str:
    """A row as a JSON line; a column that is `None` is left out."""
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v is not None})


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs a command line that must be refused. Returns what was said."""
    monkeypatch.chdir(tmp_path)

    def run(*tokens: str) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(SystemExit) as stop:
            main(tokens)
        said = capsys.readouterr()
        assert stop.value.code == 2
        assert "Traceback" not in said.out + said.err
        assert said.err.startswith("autodidact: ")
        assert len(said.err.splitlines()) <= 2
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return said.err

    return run


def lines(*rows: str, name: str = "data.jsonl") -> str:
    Path(name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return name


MANY = [row(question=f"{i}+1", solution=f"{i}+1={i + 1}", answer=str(i + 1)) for i in range(12)]


def test_missing_column(refused):
    said = refused("train", "opsd", "--data", lines(row(question=None, qestion="1+2")), *RUN)
    assert "data.jsonl:1" in said
    assert "'question'" in said
    assert "qestion" in said


def test_missing_mapped_column(refused):
    data = lines(*MANY)
    said = refused("train", "opsd", "--data", data, "--columns", "question=prompt", *RUN)
    assert "data.jsonl:1" in said
    assert "'prompt'" in said
    assert "question, solution, answer" in said


def test_unknown_column_role(refused):
    said = refused("train", "opsd", "--data", lines(*MANY), "--columns", "qestion=a", *RUN)
    assert "'qestion'" in said
    assert "did you mean 'question'" in said


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file(refused, content):
    Path("empty.jsonl").write_text(content)
    said = refused("train", "opsd", "--data", "empty.jsonl", *RUN)
    assert "empty.jsonl" in said
    assert "no rows" in said


def test_missing_file(refused):
    lines(*MANY, name="problems.jsonl")
    said = refused("train", "opsd", "--data", "problem.jsonl", *RUN)
    assert "problem.jsonl: no such file" in said
    assert "problems.jsonl" in said


def test_broken_json_line(refused):
    said = refused(
        "train", "opsd", "--data", lines(*MANY[:2], '{"question": "1+2"', *MANY[2:]), *RUN
    )
    assert "data.jsonl:3" in said
    assert "broken JSON at column" in said


@pytest.mark.parametrize("question", [None, "", "  "])
def test_row_without_question(refused, question):
    bad = row(question=question)
    if question is None:
        bad = bad.replace("{", '{"question": null, ', 1)
    said = refused("train", "opsd", "--data", lines(*MANY, bad), *RUN)
    assert "data.jsonl:13" in said
    assert "no question" in said


@pytest.mark.parametrize("method", ["opsd", "sft"])
def test_solutions_needed_and_missing(refused, method):
    rows = [json.dumps({"question": f"{i}+1", "answer": str(i + 1)}) for i in range(12)]
    said = refused("train", method, "--data", lines(*rows), "--steps", "1", "--out", "run")
    assert f"{method!r} needs the solution" in said
    assert "data.jsonl:" in said


@pytest.mark.parametrize("method", ["grpo", "rft", "dpo"])
def test_answers_needed_and_missing(refused, method):
    rows = [json.dumps({"question": f"{i}+1", "solution": "so it is"}) for i in range(12)]
    said = refused("train", method, "--data", lines(*rows), *RUN)
    assert f"{method!r} needs the answer" in said
    assert "data.jsonl:" in said


def test_a_comparison_refuses_an_arm_before_any_starts(refused):
    rows = [json.dumps({"question": f"{i}+1", "answer": str(i + 1)}) for i in range(12)]
    said = refused(
        "compare", "grpo", "opsd", "--data", lines(*rows), "--budget", "100", "--rows", "8",
        "--length", "8", "--out", "run",
    )  # fmt: skip
    assert "'opsd' needs the solution" in said


def test_a_reward_of_ones_own_needs_no_answers(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"question": f"{i}+1", "solution": "so it is"}) for i in range(12)]
    Path("own_rewards.py").write_text(
        "def short(prompts, completions, **columns):\n"
        "    return [1 / (1 + len(text)) for text in completions]\n"
    )
    main(
        (
            "train",
            "grpo",
            "--data",
            lines(*rows),
            "--rewards",
            "own_rewards.py:short",
            "--quiet",
            *RUN,
        )
    )
    assert "no report: nothing was evaluated" in capsys.readouterr().out
    step = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    assert 0 < step["reward"] < 1


def test_reward_that_is_not_there(refused):
    Path("own_rewards.py").write_text("def short(prompts, completions, **columns): ...\n")
    said = refused(
        "train", "grpo", "--data", lines(*MANY), "--rewards", "own_rewards.py:shrot", *RUN
    )
    assert "own_rewards.py has no function 'shrot'" in said
    assert "did you mean 'short'" in said


@pytest.mark.parametrize("inside", [(), ("weights.bin",)])
def test_a_folder_that_is_no_model(refused, inside):
    Path("folder").mkdir()
    for name in inside:
        (Path("folder") / name).write_text("")
    said = refused("train", "opsd", "--model", "folder", *RUN)
    assert "'folder' is no model folder" in said
    assert "config.json" in said
    assert (inside or ("nothing",))[0] in said


def test_a_file_that_is_no_model(refused):
    said = refused("sample", "--model", lines(*MANY))
    assert "'data.jsonl' is no model folder: a file" in said


def test_a_prompt_longer_than_the_context(refused):
    long = row(question="+".join(["1"] * 3000), answer="3000")
    said = refused("train", "opsd", "--data", lines(*MANY, long, *MANY[:0]), "--test",
                   lines(row(question="9+9"), name="test.jsonl"), *RUN)  # fmt: skip
    assert "data.jsonl:13" in said
    assert "context of 4096 tokens" in said


def test_a_held_out_prompt_longer_than_the_context(refused):
    long = lines(row(question="+".join(["1"] * 3000)), name="test.jsonl")
    said = refused("train", "opsd", "--data", lines(*MANY), "--test", long, *RUN)
    assert "test.jsonl:1" in said
    assert "context of 4096 tokens" in said
    said = refused("evaluate", "--data", lines(*MANY), "--test", long, "--length", "8")
    assert "test.jsonl:1" in said


@pytest.mark.parametrize("budget", ["0", "-3"])
@pytest.mark.parametrize("line", [("train", "opsd"), ("compare", "opsd")])
def test_a_budget_of_nothing(refused, line, budget):
    said = refused(*line, "--budget", budget, "--out", "run")
    assert f"budget={budget} is not allowed" in said


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--steps", "0", "steps=0"),
        ("--lr", "0", "lr=0"),
        ("--rows", "0", "rows=0"),
        ("--length", "0", "length=0"),
        ("--eval-points", "-1", "eval_points=-1"),
        ("--device", "tpu9", "device 'tpu9'"),
        ("--precision", "fp8", '"fp32", "bf16"'),
        ("--test", "x.jsonl", "belongs to data"),
        ("--task", "tiny_calculation(trian=3)", "did you mean 'train'"),
        ("--task", "tiny_calculation(", "is no call"),
        ("--task", "tiny_calculation(train=__import__('os'))", "neither a literal"),
        ("--untouched", "nothing", "task 'nothing' is unknown"),
        ("--teacher", "inital", "did you mean 'initial'"),
        ("--track", "tensorbord", "did you mean 'tensorboard'"),
    ],
)
def test_values_that_are_not_allowed(refused, option, value, said):
    assert said in refused("train", "opsd", option, value, "--out", "run")


def test_rows_that_do_not_fit_a_group(refused):
    said = refused("train", "grpo", "--rows", "12", "--out", "run")
    assert "rows=12 must be a multiple of the 8 rows of a problem" in said


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--seeds", "0,0", "all different"),
        ("--seeds", "a", "whole numbers"),
        ("--workers", "0", "workers=0"),
    ],
)
def test_options_of_a_comparison(refused, option, value, said):
    assert said in refused("compare", "opsd", "--budget", "9", option, value, "--out", "run")


def test_the_same_arm_twice(refused):
    assert "there twice" in refused("compare", "opsd", "opsd", "--budget", "9", "--out", "run")


@pytest.mark.parametrize("line", [("train", "opsd", "--steps", "1"), ("compare", "opsd", "--demo")])
def test_an_existing_run_directory(refused, line):
    Path("run").mkdir()
    Path("run/mine.txt").write_text("precious")
    said = refused(*line, "--out", "run")
    assert "run exists and is not empty" in said
    assert Path("run/mine.txt").read_text() == "precious"


def test_an_out_that_cannot_be_made(refused):
    lines(*MANY, name="file")
    said = refused("train", "opsd", *RUN[:-1], "file/run", "--eval-points", "0")
    assert "file" in said


@pytest.mark.parametrize("verb", ["report", "show", "doctor", "sample", "evaluate"])
def test_a_folder_that_is_no_run(refused, verb):
    Path("folder").mkdir()
    assert "folder is no run directory: it has no run.json" in refused(verb, "folder")


def test_a_broken_run_file(refused):
    Path("folder").mkdir()
    Path("folder/run.json").write_text('{\n"kind": oops}')
    assert "run.json:2" in refused("show", "folder")


def test_sample_without_a_checkpoint(refused, capsys, tmp_path):
    main(("train", "sft", "--steps", "1", "--rows", "8", "--eval-points", "0",
          "--eval-problems", "4", "--out", "run", "--quiet"))  # fmt: skip
    for path in sorted(Path("run/checkpoints").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    capsys.readouterr()
    assert "holds no complete checkpoint" in refused("sample", "run")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"question": "1", "completion": "2"}', "rows.jsonl:1: no 'answer'"),
        ('{"question": "1", "completion": "2", "answer": "x y"}', "rows.jsonl:1"),
        ("{", "rows.jsonl:1"),
        ("", "no rows"),
    ],
)
def test_verify_names_file_and_line(refused, content, said):
    assert said in refused("verify", "--task", "gsm8k", lines(content, name="rows.jsonl"))


def test_verify_does_not_write_over_its_input(refused):
    data = lines('{"question": "1", "completion": "2", "answer": "2"}')
    assert "is the file to be graded" in refused("verify", data, "--json", data)
