"""Trackers: the numbers of a run arrive, training and evaluation under names of their own."""

from __future__ import annotations

import pytest

from autodidact.track import check, numbers, trackers

STEP = {"kind": "step", "step": 3, "loss": 0.5, "accuracy": None, "ledger": {"generated": 7}}
EVAL = {
    "kind": "eval", "step": 3, "fraction": 0.5, "metrics": {"greedy": 0.25},
    "problems": {"greedy": [0, 1]}, "ledger": {"generated": 7},
}  # fmt: skip


def test_training_and_evaluation_are_kept_apart():
    assert numbers(STEP) == {"train/loss": 0.5, "ledger/generated": 7.0}
    assert numbers(EVAL) == {"eval/fraction": 0.5, "eval/greedy": 0.25, "ledger/generated": 7.0}


def test_tensorboard_holds_what_was_sent(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers(("tensorboard",), tmp_path, {}) as found:
        for send in found:
            send(STEP)
            send(EVAL)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name, value in (numbers(STEP) | numbers(EVAL)).items():
        assert [(e.step, e.value) for e in events.Scalars(name)][-1] == (3, pytest.approx(value))


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="did you mean 'wandb'"):
        check("wandbb")
