"""The benchmarks run, in small: what they compare agrees, and what they write can be read."""

from __future__ import annotations

import json
from importlib import util

import pytest
from benchmarks import divergence
from benchmarks.divergence import Seen
from benchmarks.divergence_worker import PARTIES, Case, measure

TRL = pytest.mark.skipif(util.find_spec("trl") is None, reason="TRL is not installed")
LIGER = pytest.mark.skipif(
    util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed"
)
SLOW = pytest.mark.slow
MARKS = {"TRL GKD": [TRL], "TRL chunked": [TRL], "Liger": [LIGER], "Liger compiled": [LIGER, SLOW]}
PEERS = [pytest.param(party, marks=MARKS.get(party, [])) for party in PARTIES if party != "ours"]
CHUNK = {"TRL chunked": (32, 1000), "Liger": (16,), "Liger compiled": (16,)}


def here(case: Case, cache) -> dict:
    """In this process: its memory is not the party's, but its numbers are."""
    return measure(case)


def case(party: str, **further) -> Case:
    usual = {"kind": "jsd", "hidden": 32, "tokens": 64, "words": 4096, "frozen": False}
    return Case(party, **(usual | {"chunk": CHUNK.get(party, ())} | further))


@pytest.mark.filterwarnings("ignore:.*TRL.*experimental:UserWarning")
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("kind", ["jsd", "reverse"])
@pytest.mark.parametrize("party", PEERS)
def test_a_peer_computes_what_we_compute(party, kind, frozen, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    given = {"kind": kind, "frozen": frozen}
    seen = [Seen(case(name, **given), [measure(case(name, **given))]) for name in ("ours", party)]
    gap, where = divergence.disagreement(seen)
    assert gap <= divergence.TOLERANCE["float32"], where
    assert seen[0].samples[0]["results"].keys() == seen[1].samples[0]["results"].keys()
    assert ("norm of the gradient in the head" in seen[0].samples[0]["results"]) is not frozen


@pytest.mark.long
def test_it_writes_rows_and_prints_a_table(tmp_path, capsys):
    written = tmp_path / "rows.json"
    options = ["--quick", "--repeats", "3", "--parties", "ours", "naive", "--json", str(written)]
    assert divergence.main(options, here) == 0
    rows = json.loads(written.read_text())
    assert all(row.keys() == {"metric", "ours", "peer", "peer_name", "ratio"} for row in rows)
    settings = [
        f"{kind}, D=32, head {head}"
        for kind in ("jsd", "reverse")
        for head in ("trained", "frozen")
    ]
    measured = ("CPU seconds", "seconds", "peak MiB", "share of the roof")
    assert [row["metric"] for row in rows] == [f"{m}: {s}" for s in settings for m in measured]
    assert all(row["ours"] > 0 for row in rows if "seconds" in row["metric"])
    assert "largest difference of all" in capsys.readouterr().out


def test_a_peer_that_differs_fails_the_run(capsys):
    def wrong(case: Case, cache) -> dict:
        found = measure(case)
        if case.party == "naive":
            found["results"]["loss"] *= 1.001
        return found

    options = ["--quick", "--kinds", "jsd", "--heads", "frozen", "--parties", "naive"]
    assert divergence.main(options, wrong) == 1
    assert "1.0e-03 (loss of naive)" in capsys.readouterr().out


def test_what_is_not_a_number_is_a_difference():
    samples = [{"results": {"loss": value}} for value in (1.0, float("nan"), 1.0)]
    assert divergence.disagreement([Seen(case("naive"), samples)])[0] == float("inf")


def test_a_peer_that_does_not_fit_is_named(monkeypatch, capsys):
    from benchmarks import divergence_worker

    monkeypatch.setattr(divergence_worker, "free", lambda device: 3 * 2**20)
    options = ["--quick", "--kinds", "jsd", "--heads", "frozen", "--parties", "naive"]
    monkeypatch.setitem(divergence_worker.BUFFERS, "chunked", {"jsd": 0.0})  # ours fits
    divergence.main(options, here)
    assert "skipped: naive: needs about 0.0 GiB" in capsys.readouterr().out


def test_each_number_of_ours_meets_the_best_of_a_peer():
    def seen(chunk: int, cpu: float, size: float, default: bool = False) -> Seen:
        return Seen(case("Liger", chunk=(chunk,)), [{"cpu": cpu, "bytes": size}], default)

    slow, fast, lean = seen(1024, 3.0, 90.0, True), seen(256, 1.0, 50.0), seen(64, 2.0, 10.0)
    found = divergence.best([slow, fast, lean])
    assert found["Liger", "cpu"] is fast
    assert found["Liger", "bytes"] is lean


def test_a_measurement_of_its_own_process(tmp_path):
    """The peak is that of the call: naive PyTorch holds nine tensors of N x V, and little more."""
    big = case("naive", tokens=256, words=40960)
    found = divergence.apart(big, tmp_path)
    logits = 4 * big.tokens * big.words
    assert 8 * logits < found["bytes"] < 10 * logits
    assert found["cpu"] > 0
    assert not found["compiles"]
