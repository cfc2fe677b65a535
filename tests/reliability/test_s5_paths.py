"""S5: no name that comes from data, arms or a run file leads out of its folder, nor does deleting."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import report_fixture as made
from autodidact import api, checkpoint
from autodidact.arms import name_of
from autodidact.calls import Call
from autodidact.commands.completions import _newest
from autodidact.commands.runs import trained
from autodidact.names import as_part, part
from autodidact.report import report

HOSTILE = [
    "..", ".", "../../etc", "/etc/passwd", "a/b", "a\\b", "", ".hidden", "a\0b", "a\nb", "x" * 97,
    "naïve", "~", "$HOME", "a b", None, 7, ["x"],
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_what_is_no_name_of_a_file_is_refused(name):
    with pytest.raises(ValueError, match="is no name for a file or folder; allowed: 1 to 96"):
        part("arm", name)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300))
def test_any_text_becomes_a_name_that_stays_in_its_folder(text):
    found = as_part(text)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,96}", found)
    assert found not in (".", "..")
    assert part("arm", found) == found


def test_arms_with_hostile_options_have_names_of_their_own():
    call = Call("opsd", {"teacher": "../../../etc/passwd", "divergence": "x" * 400})
    other = Call("opsd", {"teacher": "../../../etc/passwd", "divergence": "x" * 401})
    assert name_of(Call("opsd", {"teacher": "../../secret"})) == "opsd-..-..-secret"
    assert part("arm", name_of(call)) != part("arm", name_of(other))


@pytest.mark.parametrize("name", ["../outside", "/tmp", "..", "a/../../b"])
def test_a_run_file_cannot_make_readers_leave_the_run(name, tmp_path):
    folder = made.compare(tmp_path / "run", arms=("opsd", "grpo"), seeds=(0,), problems=4, points=2)
    shutil.copytree(folder / "arms" / "grpo", tmp_path / "run" / "outside")
    call = json.loads((folder / "run.json").read_text())
    call["arms"][1]["name"] = name
    made.write(folder / "run.json", call)
    with pytest.raises(ValueError, match="is no name for a file or folder"):
        report(folder)
    with pytest.raises(ValueError, match="is no name for a file or folder"):
        list(trained(folder, call))
    assert not (folder / "report.html").exists()


def test_a_metrics_file_cannot_name_weights_elsewhere(tmp_path):
    made.write(tmp_path / "run.json", {"kind": "train"})
    made.write_lines(tmp_path / "metrics.jsonl", [{"kind": "eval", "checkpoint": "../../weights"}])
    with pytest.raises(ValueError, match=r"checkpoint '../../weights' is no name"):
        _newest(tmp_path)


def test_deleting_old_checkpoints_follows_no_link(tmp_path):
    target = tmp_path / "precious"
    made.write(target / "manifest.json", {})
    folder = tmp_path / "checkpoints"
    for step in (2, 3, 4):
        made.write(folder / f"step-{step:06d}" / "manifest.json", {})
    (folder / "step-000001").symlink_to(target, target_is_directory=True)
    checkpoint.prune(folder, keep=1)
    assert (target / "manifest.json").exists(), "what the link leads to is still there"
    assert (folder / "step-000004").is_dir() and not (folder / "step-000002").exists()


@pytest.mark.slow
def test_a_run_on_hostile_data_writes_nothing_outside(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    rows = [
        {
            "question": f"../../{n}+1=?", "answer": str(n + 1), "solution": f"{n}+1={n + 1}",
            "_at": "../../../escaped", "../../column": "../../value", "name": "/etc/passwd",
            "path": "../../escaped", "__class__": "x",
        }
        for n in range(8)
    ]  # fmt: skip
    data = tmp_path / "..;$(touch escaped).jsonl"
    made.write_lines(data, rows)
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    out = api.train(
        "sft", data=str(data), steps=1, rows=2, eval_points=0, eval_problems=2, eval_samples=1,
        eval_length=4,
    )  # fmt: skip
    assert out.resolve().parent == home / "runs"
    assert {path for path in tmp_path.rglob("*") if home not in path.parents} == before
    assert {path.name for path in home.iterdir()} == {"runs"}
    assert not [path for path in out.rglob("*") if not re.fullmatch(r"[\w.-]+", path.name)]
