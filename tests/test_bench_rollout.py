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
    assert rollout.main(["--quick", "--continuous", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())
    assert [(row["metric"], row["peer_name"]) for row in rows] == [
        (f"{case}: tokens / s", peer)
        for case in ("batch 2", "ragged")
        for peer in ("generate", "continuous")
    ]
    for row in rows:
        assert row.keys() == {"metric", "ours", "peer", "peer_name", "ratio"}
        assert row["ours"] > 0 and row["peer"] > 0
    assert "ours / generate" in capsys.readouterr().out


def test_all_sides_count_tokens_up_to_the_end_only():
    """On greedy models of one answer they would agree exactly; here they do on average."""
    lm = rollout.model(64, 1)
    case = rollout.Case(64, 4, 40, ends=rollout.OFTEN)
    lm.model.generation_config.eos_token_id = list(case.ends)
    expected = 64 * sum((1 - 1 / 33) ** step for step in range(40))
    for side in (rollout.ours, rollout.generate, rollout.continuous):
        assert side(lm, case, 0) == pytest.approx(expected, rel=0.25)
