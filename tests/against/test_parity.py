"""The benchmark beside TRL's trainer, in two steps."""

from __future__ import annotations

import json

import pytest

from against.trl_peer import DEPRECATED, REASON

pytest.importorskip("trl", reason=REASON)
pytestmark = [
    *DEPRECATED,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]


def test_two_steps_on_shared_tokens_are_those_of_trl(tmp_path, capsys):
    from benchmarks import parity

    written = tmp_path / "rows.json"
    options = ["--seeds", "1", "--steps", "2", "--problems", "16", "--samples", "2"]
    assert parity.main([*options, "--json", str(written)]) == 0, "the ledger is right"
    rows = {row["metric"]: row for row in json.loads(written.read_text())}
    assert all(
        row.keys() == {"metric", "ours", "peer", "peer_name", "ratio"} for row in rows.values()
    )
    assert rows["sampled accuracy, shared tokens"]["ratio"] == 1
    assert rows["ledger: generated, by TRL's metrics"]["ratio"] == 1
    assert rows["ledger: whole rows, by TRL's metrics"]["ratio"] == 1
    assert "ours - TRL" in capsys.readouterr().out


def test_shared_tokens_lead_to_the_same_weights():
    from benchmarks import parity

    from autodidact.tasks.random_calculation import tiny_calculation

    setting, task = parity.Setting(steps=2), tiny_calculation()
    ours = parity.ours(setting, task, 0)
    shared = parity.trl(setting, task, 0, shared=True)
    # Adam divides by the size of each gradient entry: float32 noise of entries near zero counts.
    assert parity.apart(setting, ours, shared) < 1e-2
    assert ours.ledger["generated"] == ours.counted["generated"] == shared.counted["generated"]
    assert ours.rewards == pytest.approx(shared.rewards, abs=1e-6)
