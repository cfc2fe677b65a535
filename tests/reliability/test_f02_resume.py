"""F2: a run that is killed after every step, and resumed each time, is the run that never stopped.

Parameters, optimizer, averages, networks beside, batches drawn ahead, metrics and samples are the
same bit for bit; `seconds` and `peak_bytes` alone are those of a clock and of a machine.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from autodidact import api
from autodidact.calls import Call
from autodidact.record import Record
from autodidact.run import Directory, Run
from autodidact.session import Watcher, execute
from autodidact.spec import Spec

STEPS = 6
RUN = Run(
    steps=STEPS, rows=4, lr=1e-3, schedule="cosine", warmup=2, eval_points=1, eval_problems=2,
    eval_samples=1, eval_length=4, save_every=1, seed=3,
)  # fmt: skip
TASK = Call("tiny_calculation", {"train": 10, "test": 4})
GRIDS = Call("sudoku", {"wording": "terse", "canvas": True, "train": 6, "test": 2})


def spec(name: str, run: dict | None = None, **arguments) -> Spec:
    other = {"task": GRIDS, "model": "tiny_diffusion_early"} if "diffu" in name else {}
    lora = 2 if (run or {}).pop("lora", False) else 0
    made = Spec(Call(name, arguments), TASK, replace(RUN, **(run or {})), lora=lora)
    return replace(made, **other)


SPECS = {
    "initial": lambda: spec("opsd", {"micro_rows": 3}, length=6, teacher="initial"),
    "policy": lambda: spec("opsd", {"lora": True}, length=6, teacher="policy"),
    "ema": lambda: spec("opsd", {"keep": "best"}, length=6, teacher="ema:0.9"),
    "copy": lambda: spec("opsd", {"lora": True}, length=6, teacher="copy:2"),
    "ahead": lambda: spec("grpo", {"staleness": 1}, n=2, length=6, epochs=2, correct="token"),
    "networks": lambda: spec("ppo", n=2, length=6, epochs=2, kl=0.05),
    "segments": lambda: spec("ulorl", {"steps": STEPS}, n=2, length=6, budget=3),
    "masked": lambda: spec("diffu_grpo", {"steps": 3}, n=2, epochs=2),
}


class Kill(BaseException):
    """Stands for SIGKILL: nothing of the library may catch it."""


class Killer(Watcher):
    """Kills once the lines of a step are written, and before its checkpoint is."""

    def __init__(self, after: int):
        self.after = after

    def step(self, line, fraction):
        if line["step"] == self.after:
            raise Kill

    def warn(self, text):
        raise AssertionError(text)


def timeless(line: dict) -> dict:
    ledger = {k: v for k, v in line["ledger"].items() if k not in ("seconds", "peak_bytes")}
    return {**line, "ledger": ledger}


def contents(folder: Path) -> dict[str, object]:
    """All that a run has written, by file, without what a clock or the machine decides."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name in ("run.json", "report.html", "manifest.json"):
            continue
        if name == "metrics.jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "state.json":
            found[name] = timeless(json.loads(path.read_text()))
        else:
            found[name] = path.read_bytes()
    return found


def assert_same(one: Path, two: Path) -> None:
    left, right = contents(one), contents(two)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []
    calls = [Directory(place, resume=True).read("run.json") for place in (one, two)]
    assert all(call["finished"] for call in calls)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.long if name in ("initial", "policy", "segments") else ()
        )
        for name in SPECS
    ],
)
def test_killed_after_every_step(name, tmp_path):
    made = SPECS[name]()
    whole = execute(made, tmp_path / "whole")
    broken = tmp_path / "broken"
    for step in range(1, made.run.steps + 1):
        with pytest.raises(Kill):
            execute(made, broken, resume=step > 1, watcher=Killer(step))
    assert_same(whole, execute(made, broken, resume=True, watcher=Killer(0)))


# ------------------------------------------------------------------ the moments between steps


SMALL = Spec(
    Call("sft"), TASK,
    Run(steps=3, rows=2, lr=1e-3, eval_points=1, eval_problems=2, eval_samples=1, eval_length=3,
        save_every=1, keep="best"),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return execute(SMALL, tmp_path_factory.mktemp("whole") / "run")


def killed(patch, owner, name, place, times: int = 1, after: bool = False) -> None:
    """Run until a function is called so many times: then die, before or after what it does."""
    real, left = getattr(owner, name), [times]

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and not after:
            raise Kill
        found = real(*args, **kwargs)
        if left[0] == 0:
            raise Kill
        return found

    with patch.context() as inner:
        inner.setattr(owner, name, call)
        with pytest.raises(Kill):
            execute(SMALL, place, resume=place.exists())


MOMENTS = (
    ("before the first evaluation", Record, "_evaluate", 1, False),
    ("between the best checkpoint and the line that says so", Record, "_write", 1, False),
    ("after the first evaluation, before any checkpoint", Record, "_evaluate", 1, True),
    ("before the first checkpoint", Record, "_save", 1, False),
    ("after the first checkpoint", Record, "_save", 1, True),
    ("before an evaluation whose step is written", Record, "_evaluate", 1, False),
    ("between an evaluation and the checkpoint of its step", Record, "_save", 2, False),
    ("before the best checkpoint is evaluated", Record, "_take_best", 1, False),
    ("after it is", Record, "_take_best", 1, True),
    ("after the token view", Record, "_view", 1, True),
)


def test_killed_at_each_moment_of_one_run(whole, tmp_path, monkeypatch):
    place, begun = tmp_path / "broken", set()
    for moment, owner, name, times, after in MOMENTS:
        print(moment)
        killed(monkeypatch, owner, name, place, times, after)
        call = Directory(place, resume=True).read("run.json")
        begun.add(call["started"])
        assert len(begun) == 1 and call["finished"] is None
    assert_same(whole, execute(SMALL, place, resume=True))


def test_torn_lines_are_written_again_and_the_best_checkpoint_is_found_again(
    whole, tmp_path, monkeypatch
):
    place = tmp_path / "broken"
    killed(monkeypatch, Record, "_save", place, 2, False)
    for name in ("metrics.jsonl", "samples.jsonl"):
        text = (place / name).read_bytes()
        (place / name).write_bytes(text[:-20])
        left = list(Directory(place, resume=True).lines(name))
        assert len(left) == text.count(b"\n") - 1
    # What was chosen as best after the last checkpoint, and is not in the lines.
    gone = place / "checkpoints" / "best-000002"
    gone.mkdir()
    assert_same(whole, execute(SMALL, place, resume=True))
    assert not gone.exists()
    lines = list(Directory(place, resume=True).lines("metrics.jsonl"))
    assert lines[-1]["checkpoint"].startswith("best-")


@pytest.mark.slow
def test_a_run_that_has_ended_is_left_as_it_is(whole, tmp_path):
    place = tmp_path / "ended"
    shutil.copytree(whole, place)
    first = api.resume(place)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_of(first)}
    api.resume(place)
    after = {path: path.read_bytes() for path in files_of(place)}
    assert after == {path: content for path, (content, _) in before.items()}
    assert (place / "report.html").exists(), "killed before the report, it is written"
    assert_same(whole, place)


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
