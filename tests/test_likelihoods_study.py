"""The study of likelihoods: its numbers are those of the enumeration."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from recipes.studies import likelihoods as study

KEYS = ("one_step", "trace", "left", "elbo", "bernoulli", "complement", "block")


def test_its_bias_is_that_of_the_bound_and_noise_shrinks_with_draws():
    case = next(study.cases(24))
    truth = float((case.least - case.truth).mean())
    assert truth < -0.3
    one, many = (study.measured(case, study.Likelihood("elbo", d), 30) for d in (1, 8))
    assert many.bias == pytest.approx(truth, abs=4 * many.noise / (24 * 30) ** 0.5)
    assert (one.canvases, many.canvases) == (1, 8)
    assert many.noise < one.noise / 2 and many.error < one.error
    fixed = study.measured(case, study.Likelihood("trace"), 30)
    assert (fixed.noise, fixed.canvases) == (0.0, 4)


def test_it_writes_a_table_the_numbers_and_a_chart_for_each_model(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DRAWS", (1, 2))
    study.likelihoods(tmp_path, texts=3, updates=2)
    found = json.loads((tmp_path / "likelihoods.json").read_text())
    models = list(dict.fromkeys(each["model"] for each in found))
    assert models == ["table", "transformer", "sudoku"]
    said = (tmp_path / "likelihoods.md").read_text()
    for model in models:
        kinds = [each["kind"] for each in found if each["model"] == model]
        assert set(kinds) == set(KEYS) and len(kinds) == 11
        assert f"**{model}**: 3 texts" in said
        drawn = ElementTree.parse(tmp_path / f"likelihoods-{model}.svg").getroot()
        texts = {node.text for node in drawn.iter() if node.tag.endswith("text")}
        assert set(KEYS) <= texts
