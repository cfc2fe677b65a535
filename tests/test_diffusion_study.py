"""The study of masked models: its arms are methods, it runs, and it goes on where it stopped."""

from __future__ import annotations

import json

import pytest
from recipes.studies import diffusion_rl as study

from autodidact import calls


@pytest.mark.parametrize("arm", study.ARMS)
def test_every_arm_trains_a_masked_model(arm):
    method = calls.make(calls.method, calls.parse(arm.format(n=4)))
    assert method.masked and method.rollout.draws


def test_it_runs_and_does_not_repeat_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "SEEDS", (0, 1))
    found = study.diffusion_rl(tmp_path, "modular_sum", 800, study.ARMS[:1])
    lines = [json.loads(line) for line in found.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    for line in lines:
        assert line["calls"] >= 800 and line["step"] >= 1 and line["first"] != line["ends"]
        assert set(line["ends"]) == {"sequential", "parallel"}
    text = capsys.readouterr().out
    assert "| before |" in text and "| diffu_grpo |" in text
    monkeypatch.setattr(study, "_run", lambda *_: pytest.fail("it is there"))
    assert study.diffusion_rl(tmp_path, "modular_sum", 800, study.ARMS[:1]) == found
