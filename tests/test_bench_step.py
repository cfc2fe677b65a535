"""The benchmark of whole steps runs in small, and finds out sides that do different work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import util

import numpy as np
import pytest
import torch
from benchmarks import step
from benchmarks.step_worker import PEERS, Case, Step, even, measure, task_of, tokenizer

TRL = pytest.mark.skipif(util.find_spec("trl") is None, reason="TRL is not installed")
DEPRECATED = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
CASE = Case("ours", "OPSD", 512, rows=4, length=8, prompt=8, steps=1, hidden=64, layers=1)


@pytest.fixture(autouse=True)
def _threads(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def good(loss: float = 0.5, tokens: int = 32, seconds: float = 1.0) -> step.Found:
    each = asdict(Step(seconds, seconds, tokens, loss, 1.0))
    return {"first": each, "steps": [each], "bytes": 2**20 * seconds}


@TRL
@DEPRECATED
def test_both_sides_make_the_same_steps_in_small(tmp_path, capsys):
    """In this process: its memory is not the side's, but its numbers are."""
    written = tmp_path / "rows.json"
    assert step.main(["--quick", "--json", str(written)], measure) == 0, capsys.readouterr().out
    rows = json.loads(written.read_text())
    assert [row["metric"] for row in rows] == [
        f"{method}, V=512: {what}"
        for method in PEERS
        for what in ("steps / CPU second", "peak MiB")
    ]
    for row in rows:
        assert row.keys() == {"metric", "ours", "peer", "peer_name", "ratio"}
        assert "TRL" in row["peer_name"] and ("MiB" in row["metric"] or row["ratio"] > 0)
    assert "first loss: ours" in capsys.readouterr().out


@pytest.mark.slow
@TRL
def test_a_side_runs_in_a_process_of_its_own():
    found = step.apart(CASE)
    assert len(found["steps"]) == 1 and found["bytes"] > 0


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (good(tokens=31), "TRL drew 31 tokens"),
        (good(loss=float("nan")), "TRL: loss nan"),
        (good(loss=0.7), "0.5 of ours, 0.7 of TRL"),
    ],
)
def test_other_work_is_found_out(bad, says, capsys):
    assert list(step.complaints(CASE, {"ours": [good()], "TRL": [good()]})) == []
    options = ["--quick", "--methods", "OPSD"]
    assert step.main(options, lambda case: good() if case.side == "ours" else bad) == 1
    assert says in capsys.readouterr().out


def test_sides_take_turns_with_a_seed_for_each_repeat():
    asked = []
    seen = step.explore(CASE, 3, lambda case: asked.append((case.side, case.seed)) or good())
    assert asked == [("TRL", 0), ("ours", 0), ("ours", 1), ("TRL", 1), ("TRL", 2), ("ours", 2)]
    assert {side: len(found) for side, found in seen.items()} == {"ours": 3, "TRL": 3}


def test_nothing_measured_is_no_success(capsys):
    assert step.main(["--quick"], lambda case: {"skipped": "no room"}) == 1
    assert "skipped: TRL: no room" in capsys.readouterr().out


def test_what_may_not_fit_is_not_started():
    assert "may need" in step.apart(replace(CASE, words=2**40))["skipped"]


def test_the_ratio_and_its_interval():
    rows = step.report(CASE, {"ours": [good(seconds=0.5)] * 2, "TRL": [good(seconds=2.0)] * 2})
    assert [row.ratio for row in rows] == [4.0, 0.25]
    ours, peer = np.array([[2.0, 2.0], [4.0, 4.0]]), np.ones((2, 2))
    assert step.interval(ours, peer) == (2.0, 4.0), "whole repeats are resampled"
    assert step.interval(ours, ours) == (1.0, 1.0), "and they are those of both sides"


def test_problems_are_words_and_the_teacher_reads_more():
    task, words = task_of(CASE), tokenizer(CASE.words)
    assert len({problem.question for problem in task.train}) == 8, "new ones for every step"
    for problem in task.train:
        heads = task.prompt(problem), task.privileged(problem)
        sizes = [len(words(messages[0]["content"])["input_ids"]) for messages in heads]
        assert sizes == [8, 16]
    assert words.eos_token_id == CASE.words, "a word that the model does not have"
    assert even(["w2 w4 w5 w6", ""]) == [0.75, 0.0]
