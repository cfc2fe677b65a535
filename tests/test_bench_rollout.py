"""The benchmark of rollouts runs, and says what it must."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks import rollout


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_runs_in_small_and_writes_its_rows(threads, tmp_path, capsys):
    written = tmp_path / "rows.json"
    assert rollout.main(["--quick", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())
    assert [row["metric"] for row in rows] == ["batch 2: tokens / s", "ragged: tokens / s"]
    for row in rows:
        assert row.keys() == {"metric", "ours", "peer", "peer_name", "ratio"}
        assert row["ours"] > 0 and row["peer"] > 0
    assert "ours / generate" in capsys.readouterr().out


def test_both_sides_count_tokens_up_to_the_end_only():
    """On greedy models of one answer they would agree exactly; here they do on average."""
    lm = rollout.model(64, 1)
    case = rollout.Case(64, 4, 40, ends=rollout.OFTEN)
    lm.model.generation_config.eos_token_id = list(case.ends)
    one, two = rollout.ours(lm, case, 0), rollout.peer(lm, case, 0)
    expected = 64 * sum((1 - 1 / 33) ** step for step in range(40))
    assert one == pytest.approx(expected, rel=0.25) and two == pytest.approx(expected, rel=0.25)
