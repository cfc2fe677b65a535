"""F5 and issue "Reliability 2": guards warn, then stop, at stated thresholds, a run that diverges."""

from __future__ import annotations

import json
import math

import pytest

import autodidact
from autodidact.arms import arms_of
from autodidact.calls import Call
from autodidact.cli import main
from autodidact.diagnose import Doctor, diagnose
from autodidact.guards import GUARDS, LONG
from autodidact.rules import WINDOW
from autodidact.run import Run
from autodidact.spec import Spec

WORDS = 1000
CALL = {"model": {"words": WORDS, "template": True}, "run": {"guard": "stop"}}
HEALTHY = {
    "kind": "step", "empty": 0, "skipped": 0, "loss": 0.1, "signal": 0.3, "spread": 0.5,
    "unscorable": 0.0, "accuracy": 0.4, "reward": 0.5, "entropy": 1.0, "length": 60.0,
    "truncated": 0.1, "kl": 1e-6, "mismatch_mean": 1e-6, "mismatch_max": 1e-5, "ess": 1.0,
}  # fmt: skip
BELOW = {
    "kl": {"kl": 0.5},
    "mismatch": {"mismatch_mean": 0.5},
    "ess": {"ess": 0.1},
    "entropy_high": {"entropy": 0.9 * math.log(WORDS)},
    "entropy_low": {"entropy": 0.04, "accuracy": 0.2},
    "length": {"length": 15.0, "accuracy": 0.2},
    "truncated": {"truncated": 0.95, "accuracy": 0.2},
}
BEYOND = {
    "kl": {"kl": 5.0},
    "mismatch": {"mismatch_mean": 3.0},
    "ess": {"ess": 0.001},
    "entropy_high": {"entropy": 0.99 * math.log(WORDS)},
    "entropy_low": {"entropy": 0.005, "accuracy": 0.05},
    "length": {"length": 5.0, "accuracy": 0.05},
    "truncated": {"truncated": 1.0, "accuracy": 0.0},
}
"""What passes the first threshold of each guard only, and what passes the second."""


def lines(*changes: dict) -> list[dict]:
    return [{**HEALTHY, **change, "step": step} for step, change in enumerate(changes, 1)]


def followed(*changes: dict) -> tuple[Doctor, int | None]:
    """A doctor after these steps, and the step at which a guard stopped the run first."""
    doctor, stopped = Doctor(CALL), None
    for line in lines(*changes):
        doctor.see(line)
        stopped = line["step"] if stopped is None and doctor.reason else stopped
    return doctor, stopped


def whats(found) -> list[str]:
    return [each.what for each in found]


def test_every_guard_is_tested():
    assert set(BELOW) == set(BEYOND) == set(GUARDS)
    assert (WINDOW, LONG) == (5, 20), "as the table of guards says"


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_warns_past_the_first_threshold_and_never_stops_there(name):
    what = GUARDS[name][3]
    doctor, stopped = followed({}, {}, *[BELOW[name]] * (WINDOW - 1))
    assert what not in whats(doctor.found(False))
    doctor, stopped = followed({}, {}, *[BELOW[name]] * 60)
    [found] = [each for each in doctor.found(False) if each.what == what]
    assert found.level == "warning" and found.step == 3 and stopped is None


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_stops_long_past_the_second_threshold(name):
    key, what = GUARDS[name][0], GUARDS[name][3]
    doctor, stopped = followed({}, {}, *[BEYOND[name]] * LONG)
    assert stopped == 2 + LONG and doctor.reason is not None
    assert doctor.reason.startswith(f"stopped at step {stopped} after {LONG} such steps: ")
    assert what.lower() in doctor.reason and "\n" not in doctor.reason
    assert f"{key} {BEYOND[name][key]:.3g}, {HEALTHY[key]:.3g} at the start" in doctor.reason
    short = [BEYOND[name]] * (LONG - 1)
    assert followed({}, *short, {}, *short)[1] is None, "a single better step begins anew"
    assert followed(*[BEYOND[name]] * 60)[1] is None, "what was so from the start is no divergence"


@pytest.mark.parametrize("name", ["entropy_low", "length"])
def test_a_policy_that_masters_its_task_may_be_sure_and_brief(name):
    better = {**BEYOND[name], "accuracy": 0.95, "reward": 1.0}
    doctor, stopped = followed({}, *[better] * 60)
    assert stopped is None and doctor.found(False) == []


def test_without_a_quality_only_the_plainest_collapse_counts():
    unknown = {"accuracy": None, "reward": None}
    assert followed(unknown, *[{**unknown, "entropy": 1e-9, "length": 8.0}] * 60)[1] is None
    assert followed(unknown, *[{**unknown, "length": 1.0}] * 60)[1] == 1 + LONG
    assert followed(unknown, *[{**unknown, "truncated": 1.0}] * 60)[1] == 1 + LONG


def test_a_resumed_run_goes_on_counting():
    told = lines({}, *[BEYOND["kl"]] * LONG)
    doctor = Doctor(CALL, told[:10])
    assert doctor.reason is None
    for line in told[10:]:
        doctor.see(line)
    assert doctor.reason is not None


def test_off_says_nothing():
    off = {**CALL, "run": {"guard": "off"}}
    assert "The policy moved away" in whats(diagnose(lines({}, *[BELOW["kl"]] * 9), CALL))[0]
    assert diagnose(lines({}, *[BELOW["kl"]] * 9), off) == []


def test_arms_of_a_comparison_warn_only():
    def guard(run: Run) -> str:
        spec = Spec(Call("sft", {}), model="tiny", task=Call("tiny_calculation", {}), run=run)
        return arms_of(["sft"], spec, {})[0].spec.run.guard

    assert guard(Run()) == "warn" and guard(Run(guard="off")) == "off"
    with pytest.raises(ValueError, match="'stop'"):
        Run(guard="stopp")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_that_diverges_stops_and_can_go_on(tmp_path, monkeypatch, capsys):
    """A learning rate that ruins the model; the stop comes earlier here, to save time."""
    monkeypatch.setattr("autodidact.guards.LONG", 3)
    out = tmp_path / "run"
    asked = ("--steps", "7", "--rows", "8", "--n", "4", "--lr", "0.5", "--length", "24")
    small = ("--eval-points", "0", "--eval-problems", "2", "--eval-samples", "1", "--quiet")
    with pytest.raises(SystemExit) as stop:
        main(["train", "grpo", *asked, *small, "--out", str(out)])
    assert stop.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("autodidact: stopped at step ") and "at the start" in said
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert last < 7 and (out / "checkpoints" / f"step-{last:06d}").is_dir()
    autodidact.resume(out, guard="warn")
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 7
