"""Every rule speaks about a run that has its fault, and none about a healthy one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autodidact.diagnose import RULES, WINDOW, diagnose
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.methods.rft import rft
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import random_qwen, toy_task

MODEL = {"model": {"end": 4, "pad": 0, "template": True}}
HEALTHY: dict[str, Any] = {
    "kind": "step", "loss": 0.5, "grad_norm": 1.0, "skipped": 0, "empty": 0, "signal": 0.4,
    "truncated": 0.1, "spread": 0.6, "reward": 0.4, "unscorable": 0.0, "tv": 0.2,
    "mismatch_mean": 1e-6, "mismatch_max": 1e-5, "ess": 1.0, "staleness": 0.0,
}  # fmt: skip
FAULTS: dict[str, dict[str, Any]] = {
    "Every completion was cut off": {"truncated": 1.0},
    "More than half of the completions were cut off": {"truncated": 0.7},
    "Within every group all rewards were equal": {"spread": 0.0, "signal": 0.0, "tv": None},
    "The teacher said exactly what the student said": {"tv": 0.0, "signal": 0.0},
    "The signal was zero at every token": {"signal": 0.0},
    "No row was left to learn from": {
        "empty": 1, "loss": None, "signal": None, "tv": None, "truncated": None, "spread": None,
        "unscorable": None, "mismatch_max": None,
    },
    "No completion could be scored": {
        "unscorable": 1.0, "spread": 0.0, "signal": 0.0, "reward": None, "tv": None
    },
    "More than a fifth of the completions could not be scored": {"unscorable": 0.3},
    "Sampler and trainer disagree": {"mismatch_max": 0.5},
    "The weights had moved far": {"mismatch_max": 0.5, "ess": 0.3, "staleness": 2.0},
    "Loss or gradient was not finite": {"skipped": 1},
}  # fmt: skip


def lines(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """One metrics line for each set of changes to a healthy step; `None` leaves a key out."""
    found = []
    for step, change in enumerate(changes, 1):
        line = {**HEALTHY, **change, "step": step}
        found.append({key: value for key, value in line.items() if value is not None})
    return found


def test_a_healthy_run_gives_nothing_to_say():
    evaluations = [{"kind": "eval", "step": 0, "metrics": {"truncated": 1.0}}]
    assert diagnose(evaluations + lines(*[{}] * 20), MODEL) == []


def test_every_rule_has_a_fault():
    assert len(FAULTS) == len(RULES)


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_once_at_its_first_step_with_a_remedy(what):
    change = FAULTS[what]
    [found] = diagnose(lines({}, {}, *[change] * 9, {}), MODEL)
    assert found.what.startswith(what) and found.step == 3
    assert found.why.endswith(".") and found.remedy[-1] in ".?"
    assert str(found) == f"{found.what}. {found.why} {found.remedy}"
    assert found.describe()["step"] == 3


@pytest.mark.parametrize("what", FAULTS)
def test_a_passing_fault_is_no_diagnosis(what):
    rule = next(rule for rule in RULES if rule.diagnosis.what.startswith(what))
    short = max(0, rule.window - 1)
    assert (
        diagnose(lines({}, *[FAULTS[what]] * short, {}, *[FAULTS[what]] * short, {}), MODEL) == []
    )


@pytest.mark.parametrize("what", FAULTS)
def test_a_short_run_waits_for_its_end(what):
    short = lines(*[FAULTS[what]] * 2)
    assert WINDOW > 2 and len(diagnose(short, MODEL)) == 1
    window = next(rule.window for rule in RULES if rule.diagnosis.what.startswith(what))
    assert len(diagnose(short, MODEL, finished=False)) == (window == 1)


def test_what_can_be_seen_before_the_first_step():
    [found] = diagnose([], {"model": {"end": 4, "pad": 4, "template": True}})
    assert found.what == "The end token is also the padding token" and found.step is None
    [found] = diagnose([], {"model": {"end": 4, "pad": 0, "template": False}})
    assert found.what == "The tokenizer has no chat template"
    assert diagnose([], {"model": {"end": None, "pad": None}}) == diagnose([], {}) == []


# ------------------------------------------------------------------ of real runs


def steps(method, task, tokenizer, count: int = 2, **options) -> list[dict[str, Any]]:
    lm = random_qwen(tokenizer, **options)
    training = Training(method, Models(lm), task, Run(steps=count, rows=8, lr=1e-4))
    return [training.advance()[1] for _ in range(count)]


def whats(found) -> list[str]:
    return [each.what.split(",")[0] for each in found]


def task_with(**changes):
    return replace(toy_task(16), **changes)


def test_a_real_healthy_run_is_healthy(tokenizer):
    for method in (grpo(n=4, length=6), opsd(length=6), rft(n=4, length=6)):
        assert diagnose(steps(method, toy_task(16), tokenizer), MODEL) == []


@pytest.mark.parametrize("reward", [0.0, 0.7, 1.0])
def test_equal_rewards_are_found_in_a_real_run(tokenizer, reward):
    task = task_with(reward=lambda problems, texts: [reward] * len(texts))
    found = diagnose(steps(grpo(n=8, length=6), task, tokenizer), MODEL)
    assert whats(found) == ["Within every group all rewards were equal"]


def test_a_teacher_that_reads_what_the_student_reads_is_found(tokenizer):
    for teacher in ("policy", "ema:0"):
        found = diagnose(
            steps(opsd(length=6, teacher=teacher), toy_task(16, told=False), tokenizer), MODEL
        )
        assert whats(found) == ["The teacher said exactly what the student said"]


def test_completions_without_end_and_without_score_are_found(tokenizer):
    found = diagnose(steps(grpo(n=4, length=1), toy_task(16), tokenizer), MODEL)
    assert whats(found) == ["More than half of the completions were cut off"]
    task = task_with(reward=lambda problems, texts: [None] * len(texts))
    assert whats(diagnose(steps(grpo(n=4, length=6), task, tokenizer), MODEL)) == [
        "No completion could be scored"
    ]
    assert whats(diagnose(steps(rft(n=4, length=6), task, tokenizer), MODEL)) == [
        "No row was left to learn from"
    ]


def test_a_method_that_needs_no_answers_is_not_told_that_they_are_missing(tokenizer):
    task = task_with(reward=None, correct=None, final=None)
    for n in (1, 2):
        assert diagnose(steps(opsd(n=n, length=6), task, tokenizer), MODEL) == []


def test_truncated_sampling_is_no_disagreement(tokenizer):
    """The mismatch compares the trainer with the untruncated law that was stored beside it."""
    found = diagnose(
        steps(opsd(length=6, top_k=3, temperature=1.2), toy_task(16), tokenizer), MODEL
    )
    assert found == []
