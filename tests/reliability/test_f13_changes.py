"""F13: a run that is resumed with something else than it began with: another experiment is
refused, other versions and machines are said and written down, and nothing is overlooked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from twins import At, assert_same, small

from autodidact import cli
from autodidact.calls import Call
from autodidact.changes import Change, changes, digests, permit, went_on
from autodidact.places import locate
from autodidact.problem import Problem
from autodidact.session import execute
from toys import toy_task

ROWS = [{"question": f"{a}+{a}", "solution": f"{a}+{a}={2 * a}", "answer": str(2 * a)}
        for a in range(2, 14)]  # fmt: skip


def pull():
    raise KeyboardInterrupt


def half(spec, out: Path) -> Path:
    """A run that was stopped after three of its four steps, with a checkpoint of the second."""
    with pytest.raises(KeyboardInterrupt):
        execute(spec, out, watcher=At(3, pull))
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return half(small(save_every=2), tmp_path_factory.mktemp("f13") / "run")


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of a stopped run."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def told(out: Path) -> dict:
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


def edit(out: Path, change) -> None:
    call = told(out)
    change(call)
    (out / "run.json").write_text(json.dumps(call), encoding="utf-8")


def test_nothing_changed(run, capfd):
    execute(small(save_every=2), run, resume=True)
    [entry] = told(run)["resumed"]
    assert (entry["step"], entry["changes"], entry["exact"]) == (2, [], True)
    assert capfd.readouterr().err == ""


def test_other_versions_and_threads_are_said_and_written_down(run, capfd):
    def older(call):
        call["versions"]["torch"] = "1.0"
        call["machine"]["threads"] = 64
        call["git"] = "0123456789ab"

    edit(run, older)
    execute(small(save_every=2), run, resume=True)
    said = capfd.readouterr().err.splitlines()
    now = told(run)
    [entry] = now["resumed"]
    assert entry["exact"] is False
    assert f'versions.torch: "1.0" -> "{torch.__version__}"' in entry["changes"]
    assert "machine.threads: 64 -> 1" in entry["changes"]
    assert any(change.startswith('git: "0123456789ab" -> ') for change in entry["changes"])
    assert said[:-1] == [f"warning: not as when the run began: {c}" for c in entry["changes"]]
    assert "to the last bit" in said[-1]
    assert now["versions"]["torch"] == "1.0", "that is what it began with"


def test_what_no_number_depends_on_keeps_the_promise():
    before = {"spec": {"run": {"save_every": 0}, "track": []}, "machine": {"cores": 2}}
    now = {"spec": {"run": {"save_every": 5}, "track": ["wandb"]}, "machine": {"cores": 4}}
    found = changes(before, now)
    assert [change.what for change in found] == [
        "spec.run.save_every", "spec.track", "machine.cores",
    ]  # fmt: skip
    permit(found, "run")
    call = {}
    went_on(call, now, found, 3)
    assert call["resumed"][0]["exact"] is True
    assert len(call["resumed"][0]["changes"]) == 3


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("device", None, "cuda"),
        ("parallel", "ddp", "fsdp"),
        ("gather", None, "layers"),  # before there was a choice
        ("recompute", False, True),
    ],
)
def test_where_and_how_it_is_computed_is_no_other_experiment_but_rounds(name, before, now):
    [found] = changes({"spec": {name: before}}, {"spec": {name: now}})
    assert not found.refused and not found.free


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [("spec.run.lr", 0.1, 0.2), ("spec.precision", "fp32", "bf16"), ("spec.lora", 0, 4),
     ("digests.weights", "a", "b"), ("spec.method.arguments.teacher", None, "ema:0.9")],
)  # fmt: skip
def test_another_experiment_is_refused(name, before, now):
    with pytest.raises(ValueError, match=f"\n  {name}: .* -> .*\n.*--allow-change"):
        permit([Change("versions.torch", "1", "2"), Change(name, before, now)], "run")


@pytest.mark.slow
def test_a_spec_that_was_edited_by_hand(run, capsys):
    def faster(call):
        call["spec"]["run"]["lr"] = 0.5
        call["spec"]["run"]["seed"] = 3

    edit(run, faster)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end:
        cli.main(("train", "--resume", str(run), "--quiet"))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "  spec.run.lr: 0.001 -> 0.5\n  spec.run.seed: 0 -> 3\n" in said
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cli.main(("train", "--resume", str(run), "--quiet", "--allow-change"))
    now = told(run)
    assert (now["run"]["lr"], now["seeds"], now["resumed"][0]["exact"]) == (0.5, [3], False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if line["kind"] == "step"] == [0.001, 0.001, 0.5, 0.5]


def test_a_teacher_that_the_checkpoint_does_not_have(run):
    """Refused before anything is restored, where it would fail in some other way."""
    method = Call("grpo", {"n": 2, "length": 8, "kl": 0.1})
    with pytest.raises(ValueError, match=r"spec\.method\.arguments\.kl: null -> 0\.1"):
        execute(replace(small(save_every=2), method=method), run, resume=True)


@pytest.mark.slow
def test_other_weights_behind_the_name_of_the_model(tmp_path):
    shutil.copytree(locate("tiny"), tmp_path / "model")
    spec = replace(small(save_every=2), model=str(tmp_path / "model"))
    out = half(spec, tmp_path / "run")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    known = {name: value.clone() for name, value in weights.items()}
    next(iter(weights.values())).mul_(1.01)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r'digests\.weights: "\w+" -> "\w+"'):
        execute(spec, out, resume=True)
    save_file(known, file, {"format": "pt"})
    execute(spec, out, resume=True)
    assert_same(out, execute(spec, tmp_path / "whole"))


@pytest.mark.slow
def test_other_problems_behind_the_name_of_the_file(tmp_path):
    """Also where the run has no checkpoint yet, and begins anew."""
    data, moved = tmp_path / "data.jsonl", tmp_path / "other.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    moved.write_text("\n\n".join(map(json.dumps, ROWS)))
    spec = replace(small(), task=Call("from_file", {"path": str(data)}))
    out = half(spec, tmp_path / "run")
    known = told(out)["digests"]["problems"]
    data.write_text("\n".join(map(json.dumps, [{**ROWS[0], "answer": "7"}, *ROWS[1:]])))
    with pytest.raises(ValueError, match=r"digests\.problems: ") as refused:
        execute(spec, out, resume=True)
    assert "--allow-change" in str(refused.value)
    execute(spec, out, resume=True, allow_change=True)
    assert told(out)["digests"]["problems"] != known, "the next time this is what it was"


def test_another_reward_behind_the_name_of_its_file(tmp_path):
    file, out = tmp_path / "mine.py", tmp_path / "run"
    text = "def reward(completions, **columns):\n    return [len(c) / 9 for c in completions]\n"
    file.write_text(text)
    spec = replace(small(save_every=2), rewards=f"{file}:reward")
    half(spec, out)
    assert list(told(out)["digests"]["rewards"]) == [f"{file}:reward"]
    file.write_text(text.replace("9", "8"))
    with pytest.raises(ValueError, match=r"digests\.rewards\..*mine\.py:reward: "):
        execute(spec, out, resume=True)
    file.write_text(text)
    execute(spec, out, resume=True)
    assert told(out)["resumed"][0]["exact"] is True


def test_digests_see_what_matters_and_no_more(qwen, tokenizer):
    task = toy_task(3)
    known = digests(qwen, task)
    assert digests(qwen, toy_task(3)) == known
    placed = [replace(p, meta={**p.meta, "_at": "file.jsonl:3"}) for p in task.train]
    assert digests(qwen, replace(task, train=placed)) == known, "a file may move"
    reordered = replace(task, train=task.train[::-1])
    assert digests(qwen, reordered)["problems"] != known["problems"]
    other = replace(task, test=[*task.test, Problem("1+1")])
    assert digests(qwen, other)["problems"] != known["problems"]
    qwen.model.config.rope_theta = 77.0
    assert digests(qwen, task)["config"] != known["config"]
    with torch.no_grad():
        next(qwen.model.parameters())[0] += 1e-3
    assert digests(qwen, task)["weights"] != known["weights"]
