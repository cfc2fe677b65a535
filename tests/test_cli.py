"""The command line, in one process where it can be, on runs of a few seconds."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from autodidact import api, calls
from autodidact.cli import COMMANDS, main
from autodidact.commands import live, signatures
from autodidact.commands.options import SHOWN
from autodidact.demo import DEMO, TINY

METHODS = calls.names("methods")
HEAVY = ("torch", "transformers", "datasets", "numpy", "scipy", "peft", "matplotlib", "jaxtyping")
SMALL = (
    "--task", "tiny_calculation(train=32, test=8)", "--rows", "8", "--length", "24",
    "--eval-problems", "8", "--eval-samples", "2", "--eval-points", "1",
)  # fmt: skip


@pytest.fixture
def cli(capsys):
    """Runs a command line: its exit code, what it printed, and what it said about errors."""

    def run(*tokens: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(tokens)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps with a checkpoint every two."""
    out = tmp_path_factory.mktemp("cli") / "run"
    main(("train", "opsd", *SMALL, "--steps", "4", "--save-every", "2", "--out", str(out)))
    return out


@pytest.fixture
def spec(monkeypatch, tmp_path, cli):
    """The spec that a command line stands for; nothing is run."""
    seen = []

    def execute(spec, out, **options):
        seen.append(spec)
        return Path(out)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "execute", execute)
    monkeypatch.setattr(api, "reported", lambda directory: directory)

    def made(*tokens: str):
        code, _, said = cli(*tokens)
        assert code == 0, said
        return seen[-1]

    return made


def heavy_after(*lines: tuple[str, ...]) -> list[list[str]]:
    """The heavy modules that a fresh process has imported after each of these command lines."""
    code = f"""
import io, sys
from contextlib import redirect_stderr, redirect_stdout
from autodidact.cli import main
for line in {lines!r}:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            main(line)
        except SystemExit:
            pass
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [json.loads(line.replace("'", '"')) for line in done.stdout.splitlines()]


# Speed: nothing heavy is imported where an answer must come at once.


def test_import_is_lazy():
    code = "import sys, autodidact; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*HEAVY, "rich", "cyclopts"} & set(done.stdout.split())


def test_help_and_mistakes_import_nothing_heavy(trained):
    lines = (
        ("--help",), ("train", "--help"), ("train", "opsd", "--help-all"), ("compare", "--help"),
        ("sample", "--help"), ("methods",), ("methods", "opsd"), ("trian",), ("train", "opds"),
        ("train", "opsd", "--leaning_rate", "3"), ("train", "opsd", "--divergence", "forwrad"),
        ("train", "opsd", "--lr", "x"), ("compare", "--sedes", "1"), ("show", str(trained)),
        ("doctor", str(trained)),
    )  # fmt: skip
    found = heavy_after(*lines)
    assert dict(zip(lines, found, strict=True)) == {line: [] for line in lines}


# Options are signatures.


@pytest.mark.parametrize("name", METHODS)
def test_the_static_signature_is_the_real_one(name):
    real, read = calls.method(name), signatures.method(name)
    types = get_type_hints(inspect.unwrap(real))
    assert [(each.name, each.annotation, each.default) for each in read.options] == [
        (each.name, types[each.name], each.default)
        for each in inspect.signature(real).parameters.values()
    ]
    assert read.doc == inspect.getdoc(real)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_its_source_and_its_needs(name):
    read = signatures.method(name)
    assert re.search(r"arXiv \d{4}\.\d{5}|textbook", read.line("Source"))
    assert "`" in read.line("Needs")


def test_docstring_sections():
    doc = "Title.\n\nArgs:\n    a: one\n        more: of it.\n    b, c: two.\n\nReturns:\n    d: no.\n"
    assert signatures.explain(doc, "Args") == {"a": "one more: of it.", "b": "two.", "c": "two."}
    assert signatures.explain(doc, "Attributes") == {}


@pytest.mark.parametrize(
    "line", [("train", name) for name in METHODS] + [("compare",), ("evaluate",), ("sample",)]
)
def test_help_is_short_and_help_all_is_whole(cli, line):
    code, short, _ = cli(*line, "--help")
    assert code == 0
    shown = re.findall(r"^│ (--[\w-]+)", short, re.MULTILINE)
    assert 0 < len(shown) <= SHOWN
    _, whole, _ = cli(*line, "--help-all")
    everything = re.findall(r"^│ (--[\w-]+)", whole, re.MULTILINE)
    count = re.search(r"^(\d+) further options: --help-all", short, re.MULTILINE)
    assert len(everything) == len(shown) + (int(count[1]) if count else 0)
    assert set(shown) <= set(everything)


def test_help_of_a_method_explains_its_options(cli):
    _, text, _ = cli("train", "opsd", "--help")
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
    assert "On-Policy Self-Distillation: the same weights" in words
    assert "--divergence CHOICE forward covers what the teacher may say" in words
    assert "[choices: forward, reverse, jsd, tv] [default: forward]" in words
    assert "of the summands (0.05 in the paper)" in words
    assert "--lr FLOAT learning rate of AdamW" in words


def test_root_help_lists_the_commands(cli):
    code, text, _ = cli("--help")
    assert code == 0
    assert re.findall(r"^│ (\w+)", text, re.MULTILINE) == list(COMMANDS)
    assert cli()[1] == text


def test_values_reach_the_spec(spec):
    made = spec(
        "train", "opsd", "--model", "Qwen/Qwen3-1.7B", "--data", "problems.jsonl",
        "--columns", "question=q,answer=a", "--test", "held.jsonl", "--length", "1024",
        "--divergence", "reverse", "--clip", "none", "--teacher-thinking", "--lr", "1e-5",
        "--budget", "40_000", "--column", "total", "--micro-rows", "4", "--lora", "16",
        "--precision", "bf16", "--no-thinking", "--track", "tensorboard", "--rewards", "a.py:f=0.7",
        "--untouched", "reverse_text(test=9)", "--device", "cpu",
    )  # fmt: skip
    assert made.method == calls.Call(
        "opsd",
        {"length": 1024, "divergence": "reverse", "clip": None, "teacher_thinking": True},
    )
    assert made.task == calls.Call(
        "from_file",
        {"path": "problems.jsonl", "columns": "question=q,answer=a", "test_file": "held.jsonl"},
    )
    assert made.untouched == calls.Call("reverse_text", {"test": 9})
    run = made.run
    assert (run.lr, run.budget, run.column, run.micro_rows) == (1e-5, 40_000, "total", 4)
    assert (made.model, made.lora, made.precision) == ("Qwen/Qwen3-1.7B", 16, "bf16")
    assert (made.thinking, made.track, made.rewards) == (False, ("tensorboard",), "a.py:f=0.7")
    assert type(made).of(json.loads(json.dumps(made.describe()))) == made


def test_tiny_defaults_only_where_nothing_is_said(spec):
    made = spec("train", "opsd")
    assert (made.model, made.task.name) == ("tiny", "tiny_calculation")
    assert made.method.arguments == {"length": TINY["length"]}
    assert (made.run.lr, made.run.rows) == (TINY["lr"], TINY["rows"])
    said = spec("train", "opsd", "--lr", "1e-3", "--length", "9", "--rows", "8")
    assert (said.run.lr, said.run.rows, said.method.arguments) == (1e-3, 8, {"length": 9})
    other = spec("train", "opsd", "--task", "random_calculation")
    assert (other.run.lr, other.method.arguments) == (1e-5, {})
    assert spec("train", "sft").method.arguments == {}


def test_an_option_of_the_method_hides_that_of_the_run(spec):
    made = spec("train", "rft", "--keep", "2", "--run-keep", "best")
    assert made.method.arguments["keep"] == 2
    assert made.run.keep == "best"


def test_demo_is_a_preset_that_options_override(monkeypatch, cli, tmp_path):
    seen = {}

    def compare(arms, common, seeds, **options):
        seen.update(options, arms=arms, common=common, seeds=seeds)
        raise KeyboardInterrupt

    import autodidact.compare  # noqa: F401

    monkeypatch.setattr(sys.modules["autodidact.compare"], "compare", compare)
    monkeypatch.chdir(tmp_path)
    assert cli("compare", "opsd", "sft", "grpo(n=4)", "--demo", "--seeds", "7")[0] == 130
    rates = [calls.parse(arm).arguments.get("lr") for arm in seen["arms"]]
    assert rates[0] is not None
    assert rates[1] is not None
    assert seen["arms"][2] == "grpo(n=4)"
    assert (seen["seeds"], seen["workers"]) == ((7,), DEMO["workers"])
    assert (seen["common"].run.budget, seen["common"].untouched.name) == (
        DEMO["budget"],
        DEMO["untouched"],
    )
    assert seen["shared"]["length"] == DEMO["length"]


# Mistakes name what is near.


@pytest.mark.parametrize(
    ("line", "named", "near"),
    [
        ("trian opsd", "trian", "'train'"),
        ("train opds", "opds", "'opsd'"),
        ("train opds --lr 1", "opds", "'opsd'"),
        ("train opsd --leaning_rate 1", "--leaning_rate", "--lr"),
        ("train opsd --max-completion-length 1", "--max-completion-length", "--length"),
        ("train opsd --divregence x", "--divregence", "--divergence"),
        ("train opsd --divergence forwrad", "forwrad", '"forward"'),
        ("train opsd --column genrated", "genrated", "'generated'"),
        ("train opsd --task tiny_calculatoin", "tiny_calculatoin", "'tiny_calculation'"),
        ("train opsd --track wandbb", "wandbb", "'wandb'"),
        ("train opsd --resume x", "--resume", "train --resume DIR"),
        ("train --lr 1 opsd", "--lr", "train METHOD --lr"),
        ("train", "method", "opsd"),
        ("compare opsd --butget 3", "--butget", "--budget"),
        ("compare opsd(divrgence=reverse) --budget 9", "divrgence", "'divergence'"),
        ("compare opsdd --budget 9", "opsdd", "'opsd'"),
        ("methods gppo", "gppo", "'ppo'"),
        ("verify --task gsm8l x.jsonl", "gsm8l", "'gsm8k'"),
        ("sample --smaples 3", "--smaples", "--samples"),
    ],
)
def test_a_mistyped_name_is_named_with_the_nearest(cli, tmp_path, monkeypatch, line, named, near):
    monkeypatch.chdir(tmp_path)
    code, out, said = cli(*line.split(" "))
    assert (code, out) == (2, "")
    assert named in said
    assert near in said
    assert said.startswith("autodidact: ")
    assert len(said.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_bugs_keep_their_traceback(monkeypatch, tmp_path):
    def broken(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "execute", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(("train", "opsd"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "nothing was written"),
        (("run.json",), "(from its start)"),
        (("run.json", "checkpoints/step-000002/manifest.json"), "train --resume"),
    ],
)
def test_an_interrupt_says_how_to_go_on(monkeypatch, tmp_path, cli, files, said):
    def interrupted(spec, out, **options):
        for name in files:
            (Path(out) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(out) / name).write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "execute", interrupted)
    code, _, text = cli("train", "opsd", "--out", str(tmp_path / "run"))
    assert code == 130
    assert said in text


# What commands do.


def test_train_writes_a_run_directory(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"run.json", "metrics.jsonl", "samples.jsonl", "report.html", "checkpoints"} <= names
    call = json.loads((trained / "run.json").read_text())
    assert call["method"]["arguments"]["length"] == 24
    assert call["finished"]


def test_train_prints_example_progress_and_places(cli, tmp_path):
    out = tmp_path / "run"
    code, text, _ = cli("train", "sft", *SMALL[:4], "--eval-points", "0", "--steps", "1",
                        "--eval-problems", "4", "--out", str(out))  # fmt: skip
    assert code == 0
    assert "\u27e6" in text
    assert "evaluated after 1 steps" in text
    assert f"report: {out / 'report.html'}" in text
    assert "\x1b" not in text
    _, quiet, _ = cli("train", "sft", *SMALL[:4], "--eval-points", "0", "--steps", "1",
                      "--eval-problems", "4", "--quiet", "--out", str(tmp_path / "quiet"))  # fmt: skip
    assert [line.partition(":")[0] for line in quiet.splitlines()] == ["run directory", "report"]


def test_resume_ends_where_the_run_would_have(trained, cli, tmp_path):
    import shutil

    place = tmp_path / "again"
    shutil.copytree(trained, place)
    before = (place / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(place / "checkpoints" / "step-000004")
    code, _, said = cli("train", "--resume", str(place), "--quiet")
    assert code == 0, said
    after = (place / "metrics.jsonl").read_text().splitlines()
    assert len(after) == len(before)
    for old, new in zip(map(json.loads, before), map(json.loads, after), strict=True):
        assert old.get("loss") == new.get("loss")
        assert old.get("metrics") == new.get("metrics")


def test_looking_at_a_run(trained, cli):
    _, text, _ = cli("show", str(trained))
    assert "opsd(" in text
    assert "4 optimizer_steps" in text
    assert "sampled" in text
    code, text, _ = cli("doctor", str(trained))
    assert (code, text) == (0, f"{trained}: nothing is wrong, as far as its numbers tell\n")
    (trained / "report.html").unlink()
    code, text, _ = cli("report", str(trained))
    assert code == 0
    assert "Held-out accuracy" in text
    assert (trained / "report.html").exists()


def test_doctor_prints_what_is_wrong_and_the_remedy(trained, cli, tmp_path):
    import shutil

    place = tmp_path / "ill"
    shutil.copytree(trained, place)
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    ill = [{**line, "truncated": 1.0} if line["kind"] == "step" else line for line in lines]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ill))
    code, text, _ = cli("doctor", str(place))
    assert code == 0
    assert "Every completion was cut off" in text
    assert "remedy  Raise length" in text


def test_sample_marks_completions(trained, cli):
    options = ("--problems", "3", "--samples", "2", "--length", "24")
    code, text, _ = cli("sample", str(trained), *options)
    assert code == 0
    marks = re.findall(r"^(right|wrong) \| ", text, re.MULTILINE)
    assert len(marks) == 6
    assert f"{marks.count('right')} of 6 right" in text
    assert cli("sample", str(trained), *options)[1] == text
    greedy = cli("sample", *SMALL[:2], "--temperature", "0", "--samples", "1", "--length", "24")
    assert greedy[0] == 0
    assert "[answer " in greedy[1]


def test_evaluate_agrees_with_the_last_evaluation_of_the_run(trained, cli, tmp_path):
    out = tmp_path / "numbers.json"
    code, text, _ = cli("evaluate", str(trained), "--problems", "8", "--samples", "2",
                        "--length", "24", "--json", str(out))  # fmt: skip
    assert code == 0
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(out.read_text())
    assert found["metrics"] == last["metrics"]
    assert found["problems"] == last["problems"]
    assert f"sampled    {last['metrics']['sampled']:.4f}" in text


def test_evaluate_and_sample_load_an_adapter(cli, tmp_path):
    out = tmp_path / "run"
    code, _, said = cli("train", "opsd", *SMALL, "--steps", "2", "--lora", "2", "--lr", "0.05",
                        "--quiet", "--out", str(out))  # fmt: skip
    assert code == 0, said
    numbers = tmp_path / "numbers.json"
    cli("evaluate", str(out), "--problems", "8", "--samples", "2", "--length", "24",
        "--json", str(numbers))  # fmt: skip
    first, *_, last = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert json.loads(numbers.read_text())["metrics"] == last["metrics"] != first["metrics"]


def test_methods(cli):
    _, table, _ = cli("methods")
    for name in METHODS:
        assert name in table
    assert "2601.18734" in table
    _, text, _ = cli("methods", "opsd")
    assert "divergence: Literal['forward', 'reverse', 'jsd', 'tv'] = 'forward'" in text
    assert "Source: Self-Distilled Reasoner" in text


def test_verify(cli, tmp_path):
    file, out = tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"
    rows = [("It is 4.\n#### 4", "#### 4", True), ("#### 5", "4", False)]
    file.write_text(
        "".join(
            json.dumps({"question": "2+2", "completion": said, "answer": answer}) + "\n"
            for said, answer, _ in rows
        )
    )
    code, text, _ = cli("verify", "--task", "gsm8k", str(file), "--json", str(out))
    assert code == 0
    assert "accuracy 0.5000 (1 of 2 right)" in text
    assert [json.loads(line)["correct"] for line in out.read_text().splitlines()] == [True, False]


def test_compare_end_to_end(cli, tmp_path):
    out = tmp_path / "both"
    code, text, said = cli("compare", "opsd", "sft", *SMALL, "--budget", "200", "--seeds", "0",
                           "--target", "0.01", "--out", str(out))  # fmt: skip
    assert code == 0, said
    for part in ("200 generated each", "sft generates nothing", "\u27e6", "100%", "Held-out",
                 "Spent to reach", f"report: {out / 'report.html'}"):  # fmt: skip
        assert part in text
    assert live.done(out / "arms" / "opsd" / "seed-0") == 1.0
    assert cli("show", str(out))[0] == 0
    assert "nothing is wrong" in cli("doctor", str(out))[1]
    code, _, said = cli("sample", str(out))
    assert (code, "keeps no weights" in said) == (2, True)


def test_progress_of_a_run_is_read_from_what_it_writes(tmp_path):
    assert live.done(tmp_path) == 0.0
    call = {"finished": None, "budget": {"column": "generated", "amount": 200}}
    (tmp_path / "run.json").write_text(json.dumps(call))
    line = json.dumps({"ledger": {"generated": 50}})
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{line[:9]}")
    assert live.done(tmp_path) == 0.25


# In Python.


def test_public_names_stay_functions():
    import autodidact.compare
    import autodidact.train
    from autodidact.train import fit

    assert autodidact.train is api.train
    assert autodidact.compare is api.compare
    assert callable(fit)
    assert set(autodidact.__all__) <= set(dir(autodidact))
    assert all(getattr(autodidact, name) is not None for name in autodidact.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        _ = autodidact.tran


def test_unknown_options_in_python():
    with pytest.raises(ValueError, match="unknown option 'leaning_rate'"):
        api.train("opsd", leaning_rate=3)
    with pytest.raises(ValueError, match="at least one arm"):
        api.compare([], budget=3)


def test_a_choice_called_none_is_meant_by_the_bare_word():
    for text in ("opsd(context=none, clip=none)", "grpo(scale=none, kl=0)"):
        made = calls.make(calls.method, calls.parse(text))
        assert made.arguments["context" if made.name == "opsd" else "scale"] == "none"
    assert calls.make(calls.method, calls.parse("opsd(clip=none)")).arguments["clip"] is None
