"""F1 and F11 for comparisons: one that was killed goes on, and ends with the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from autodidact import api
from autodidact.calls import Call
from autodidact.jobs import SAVE_EVERY, Job, run
from autodidact.run import Run
from autodidact.session import execute
from autodidact.spec import Spec
from kills import Kill, holder, lines, until

ARMS = ("sft", "grpo(n=4,length=12)")
OPTIONS = {
    "task": "tiny_calculation(train=16,test=2)", "budget": 5.0, "column": "optimizer_steps",
    "rows": 4, "save_every": 2, "eval_points": 1, "eval_problems": 2, "eval_samples": 1,
    "eval_length": 12,
}  # fmt: skip


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(tmp_path):
    """F1: SIGKILL of `compare` in the second of two arms. The first stays, the second goes on."""
    kill, out = Kill(tmp_path / "reward", after=3), tmp_path / "killed"
    own = out / "arms" / "grpo-n-4-length-12" / "seed-0"
    given = {**OPTIONS, "rewards": kill.rewards}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "autodidact", "compare", *ARMS, *options]
    with (tmp_path / "said").open("w") as said:
        parent = subprocess.Popen(
            [*command, "--seeds=0", f"--out={out}"], cwd=tmp_path, stdout=said, stderr=said
        )
        kill.stalled()
        worker = holder(own)
        first = (out / "arms" / "sft" / "seed-0" / "run.json").read_text()
        kill.kill(own, parent.pid)
        parent.wait()
    assert json.loads((out / "run.json").read_text())["finished"] is None
    # A worker does not live on without its parent, to write beside the one who resumes.
    until(lambda: not alive(worker))
    assert (own / "checkpoints" / "step-000002").is_dir()

    api.compare(resume=out)
    assert (out / "arms" / "sft" / "seed-0" / "run.json").read_text() == first
    # Steps before the checkpoint were not made again: even their seconds are those of before.
    kept = kill.before.splitlines()[:3]
    assert (own / "metrics.jsonl").read_text().splitlines()[:3] == kept
    kill.never()
    for arm in (out / "arms" / "sft" / "seed-0", own):
        spec = Spec.of(json.loads((arm / "run.json").read_text())["spec"])
        whole = execute(spec, tmp_path / "whole" / spec.method.name)
        assert lines(arm) == lines(whole)
        assert lines(arm, "samples.jsonl") == lines(whole, "samples.jsonl")
        assert not (arm / "checkpoints").exists()
    assert (out / "report.html").is_file()

    names = [path for path in out.rglob("*") if path.is_file() and path.name != "report.html"]
    before = {path: path.read_bytes() for path in names}
    api.compare(resume=out)
    assert {path: path.read_bytes() for path in names} == before, "one that ended stays"


def job(out: Path) -> Job:
    task = Call("tiny_calculation", {"train": 8, "test": 2})
    run = Run(steps=2, rows=4, eval_points=0, eval_problems=2, eval_samples=1, eval_length=8)
    return Job("sft", Spec(Call("sft"), task, run), out)


def test_a_job_is_done_once_whenever_it_was_killed(tmp_path):
    """F1: before it had said what it is, before its first checkpoint, before its folder was tidied."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / ".run.json.tmp").touch()
    early = lines(run(job(tmp_path / "early")).out)
    out = tmp_path / "late"
    assert lines(run(job(out)).out) == early
    call = json.loads((out / "run.json").read_text())
    for name in ("metrics.jsonl", "samples.jsonl", "diagnoses.json", "tokens.json"):
        (out / name).unlink()
    (out / "run.json").write_text(json.dumps({**call, "finished": None}))
    assert lines(run(job(out)).out) == early, "from its start"
    (out / "checkpoints" / "step-000002").mkdir(parents=True)
    written = (out / "metrics.jsonl").stat().st_mtime_ns
    run(job(out))
    assert not (out / "checkpoints").exists()
    assert (out / "metrics.jsonl").stat().st_mtime_ns == written


def test_arms_write_checkpoints_unasked(tmp_path, monkeypatch):
    """F1: a killed arm loses at most so many steps."""
    done: list[Job] = []

    class Pool:
        def __enter__(self):
            return lambda jobs: done.extend(jobs) or iter(())

        def __exit__(self, *error):
            return None

    module = import_module("autodidact.compare")
    monkeypatch.setattr(module, "processes", lambda count: Pool())
    for given, expected in (({}, SAVE_EVERY), ({"save_every": 7}, 7)):
        done.clear()
        place = tmp_path / str(expected)
        with pytest.raises((ValueError, FileNotFoundError)):  # nothing was done: no tables
            api.compare(
                ["sft"], seeds=(0, 1), out=place, budget=3, column="optimizer_steps", **given
            )
        assert [each.spec.run.save_every for each in done] == [expected] * 2
        with pytest.raises(ValueError, match="give no arms"):
            api.compare(["sft"], resume=place)
        again = [replace(each) for each in done]
        done.clear()
        with pytest.raises((ValueError, FileNotFoundError)):
            api.compare(resume=place)
        assert done == again, "resumed as it was begun"
