"""The benchmark of denoising runs, its plain loop is that of the engine, its intervals are right."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks import denoise
from scipy import stats

from autodidact.engine import Request
from autodidact.engines.denoise import Denoise
from autodidact.model import load
from autodidact.tasks.sudoku import sudoku


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_runs_in_small_and_writes_its_rows(threads, tmp_path, capsys):
    written = tmp_path / "rows.json"
    assert denoise.main(["--quick", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())
    assert len(rows) == 3 * 2 * 3 + 2 * 4 * 3
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)
    grids = [row for row in rows if row["metric"].endswith("calls / grid")]
    assert all(row["ours"] <= 8 for row in grids)
    assert {row["peer"] for row in grids if row["peer_name"] == "plain"} == {8}
    fed = {row["metric"]: row["ratio"] for row in rows if row["metric"].endswith("tokens read")}
    assert fed["dual, 1 a step: tokens read"] < fed["prefix, 1 a step: tokens read"] < 1
    said = capsys.readouterr().out
    assert "plain: exact" in said and "times fewer" in said


def test_the_plain_loop_writes_what_the_engine_writes():
    lm = load("tiny_diffusion_early")
    task = sudoku(wording="terse", train=0, test=40, canvas=True)
    asked = denoise.grids(lm, task.test)
    assert denoise.plain(lm, asked) == denoise.engine(Denoise())(lm, asked)
    model = denoise.random_model(64, 1)
    asked = [Request((5, 6, 7), 0, 12), Request((8, 9, 7), 0, 12)]
    assert denoise.plain(model, asked) == denoise.engine(Denoise())(model, asked)


def test_a_grid_is_right_if_all_of_its_cells_are():
    lm = load("tiny_diffusion")
    (problem,) = sudoku(wording="terse", train=0, test=1, canvas=True).test
    ids = lm.tokenizer(problem.answer)["input_ids"]
    wrong = [ids[1], *ids[1:]] if ids[0] != ids[1] else [ids[2], *ids[1:]]
    assert denoise.exact(lm, denoise.Done([ids], 1, 16), [problem]).tolist() == [1]
    assert denoise.exact(lm, denoise.Done([wrong], 1, 16), [problem]).tolist() == [0]


@pytest.mark.parametrize(("right", "count"), [(0, 20), (13, 20), (20, 20), (1990, 2000)])
def test_the_interval_of_a_share_is_wilsons(right, count):
    known = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert denoise.wilson(right, count) == pytest.approx(tuple(known), abs=1e-4)


def test_what_gives_more_is_allowed_fewer_calls():
    lm = load("tiny_diffusion")
    task = sudoku(wording="terse", train=60, test=0, canvas=True)
    found, asked = denoise.chosen(lm, task.train, (0.0, 1.0)), denoise.grids(lm, task.train)
    done = {give: denoise.engine(made)(lm, asked) for give, made in found.items()}
    plain = denoise.exact(lm, denoise.plain(lm, asked), task.train)
    assert done[1.0].calls < done[0.0].calls <= 8 * 60
    assert denoise.exact(lm, done[0.0], task.train).mean() >= plain.mean()
