"""The benchmarks of packing and of shared prefixes: that they run, what they count, that they check."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from benchmarks import prepacking, scoring, shared_prefix

from autodidact.view import plain

KEYS = {"metric", "ours", "peer", "peer_name", "ratio"}
PEERS = {
    prepacking: {"padded", "sorted", "transformers", "bound"},
    shared_prefix: {"packed", "padded", "bound"},
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", PEERS, ids=lambda module: module.__name__)
def test_a_quick_run_writes_its_rows(benchmark, tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert benchmark.main(["--quick", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert all(row.keys() == KEYS for row in rows)
    assert {row["peer_name"] for row in rows} == PEERS[benchmark]
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0 for row in rows)
    shares = {(row["metric"], row["peer_name"]): row for row in rows if "fed" in row["metric"]}
    assert shares
    for (_, name), row in shares.items():
        assert row["ours"] == 1 and row["peer"] <= 1
        assert name != "padded" or row["peer"] < 1
    out = capsys.readouterr().out
    assert "the ways agree to" in out and "torch" in out and "95% intervals" in out


GROUPS = {
    "rows": [(57, [119]), (30, [80]), (90, [300])],
    "a group": [(600, [100] * 8)],
    "groups": [(57, [119, 90, 140]), (80, [100, 20, 33])],
}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_bound_is_as_many_tokens_pairs_and_asked_tokens(kind):
    groups = GROUPS[kind]
    found, scale = scoring.bound(groups, 0)
    assert found.real.all()
    needed = scoring.tokens(groups)
    assert found.ids.numel() / scale == pytest.approx(needed)
    length = found.ids.shape[1]
    pairs = sum(p**2 / 2 + sum(s * (p + p + s) / 2 for s in sizes) for p, sizes in groups)
    assert length / 2 == pytest.approx(pairs / needed, rel=0.01), "of attention, for a token"
    asked = sum(sum(sizes) for _, sizes in groups)
    assert int(found.own.sum()) / scale == pytest.approx(asked, rel=0.01)


def test_batches_have_the_lengths_that_are_given():
    found = scoring.batch([(5, [3, 4]), (2, [6])], 0)
    assert found.real.sum(1).tolist() == [8, 9, 8] and found.own.sum(1).tolist() == [3, 4, 6]
    assert torch.equal(found.ids[0, :5], found.ids[1, :5]) and found.group.tolist() == [0, 0, 1]
    weight = found.take("weight")
    assert float(weight.sum()) == pytest.approx(1) and not weight[~found.own].any()
    assert torch.equal(found.ids, scoring.batch([(5, [3, 4]), (2, [6])], 0).ids)


def test_lengths_are_real_and_batches_differ():
    lengths = prepacking.real_lengths()
    assert len(lengths) == 512 and min(map(min, lengths)) > 10
    for kind in ("GSM8K", "long tail"):
        drawn = [prepacking.drawn(kind, 16, seed) for seed in range(4)]
        assert drawn[0] == prepacking.drawn(kind, 16, 0)
        assert all(one != other for one, other in pairwise(drawn))
    assert all((p, s) in lengths for p, [s] in prepacking.drawn("GSM8K", 16, 0))
    tail = [s for seed in range(40) for _, [s] in prepacking.drawn("long tail", 16, seed)]
    assert min(tail) >= prepacking.LEAST and max(tail) == prepacking.MOST
    assert sorted(tail)[len(tail) // 2] == pytest.approx(prepacking.MEDIAN, rel=0.15)


def test_a_way_that_is_wrong_is_found_out():
    models = scoring.model(128, 1)
    rows = scoring.batch([(6, [4, 9]), (3, [5])], 0)
    ways = prepacking.WAYS | shared_prefix.WAYS
    assert set(ways) == {"ours", "padded", "sorted", "transformers", "packed"}
    assert scoring.check(models, ways, rows) < scoring.TOLERANCE

    def blended(models, rows):
        """Packed, and attention across the rows."""
        lm, fed = models.policy, shared_prefix.pack.packed(plain(rows))
        hidden = lm.hidden(fed.ids, fed.real, position_ids=fed.position, use_cache=False)
        weight = rows.take("weight")[fed.asked]
        states = hidden.last_hidden_state.flatten(0, 1)[fed.at[fed.asked]]
        yield (
            scoring.Scores(states, lm.head(), fed.asked, rows.ids[fed.asked], weight=weight),
            rows,
        )

    with pytest.raises(AssertionError, match="blended differs"):
        scoring.check(models, ways | {"blended": blended}, rows)
