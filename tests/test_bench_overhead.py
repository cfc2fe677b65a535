"""The benchmark of overhead runs in small, and finds out sides that do not end alike."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks import overhead
from safetensors.torch import save_file


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.long
def test_it_runs_in_small_and_both_sides_end_with_the_same_weights(tmp_path, capsys):
    written = tmp_path / "rows.json"
    assert overhead.main(["--quick", "--json", str(written)]) == 0, capsys.readouterr().out
    rows = json.loads(written.read_text())
    assert [row["metric"] for row in rows] == ["opsd, 2 steps: s", "report of 4 x 8 tokens: bytes"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)
    assert "opsd: whole / bare" in capsys.readouterr().out


def test_other_weights_are_found_out(tmp_path):
    for name, value in (("one", 1.0), ("same", 1.0), ("other", 1.5)):
        folder = tmp_path / name / "step-000001"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        save_file({"weight": torch.full((2,), value)}, folder / "model.safetensors")
    assert overhead.same(tmp_path / "one", tmp_path / "same")
    assert not overhead.same(tmp_path / "one", tmp_path / "other")


def test_the_first_step_is_a_line_of_its_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert not overhead.stepped(path)
    path.write_text('{"kind": "eval", "step": 0}\n')
    assert not overhead.stepped(path)
    path.write_text('{"kind": "eval", "step": 0}\n{"kind": "step", "step": 1}\n')
    assert overhead.stepped(path)
