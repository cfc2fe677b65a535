"""The benchmark of speculative decoding runs, and its drafts agree as much as they are made to."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks import speculative

from autodidact.engines.speculative import Speculative
from autodidact.law import Law


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_runs_in_small_and_writes_its_rows(threads, tmp_path, capsys):
    written = tmp_path / "rows.json"
    assert speculative.main(["--quick", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())
    assert len(rows) == 2 * 2 * 2
    for speed, calls in zip(rows[::2], rows[1::2], strict=True):
        assert speed["metric"].endswith("guess 2: tokens / s") and speed["ratio"] > 0
        assert calls["metric"].endswith("guess 2: tokens / call") and 1 <= calls["ours"] <= 3
    assert rows[0]["metric"].startswith("acceptance 1.00 (s=0), batch 1")
    assert "times plain decoding" in capsys.readouterr().out


def test_the_less_the_upper_layers_add_the_more_proposals_stand():
    found = []
    for scale in (0.0, 0.2, 1.0):
        target, draft = speculative.pair(speculative.QUICK, scale)
        engine = Speculative(draft, 2)
        engine.draw(target, speculative.requests(8, 24, 0), Law(), 0)
        found.append(engine.tally.acceptance)
    assert found[0] == 1 and found[0] > found[1] > found[2]
