"""The studies: their arms are methods of the library, and they run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from recipes.studies import (
    divergence,
    forking,
    length,
    privilege,
    signal,
    study,
    support,
    teachers,
)

from autodidact import api
from autodidact.arms import arms_of
from autodidact.batch import batch_of
from autodidact.calls import Call
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.run import Run
from autodidact.spec import Spec
from autodidact.tasks.random_calculation import tiny_calculation

STUDIES = {
    module.__name__.rpartition(".")[2]: module
    for module in (divergence, forking, length, privilege, signal, support, teachers)
}
LITTLE = {
    "budget": 200, "seeds": (0,), "rows": 16, "eval_problems": 4, "eval_samples": 2, "length": 12
}  # fmt: skip


def run(name: str, out, **options):
    return getattr(STUDIES[name], name)(out, **options)


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_is_a_method_with_options_it_has(name, monkeypatch):
    asked = {}

    def seen(arms, out, options, aside=None):
        asked.update(arms=arms, options=options)
        return out

    monkeypatch.setattr(STUDIES[name], "study", seen)
    run(name, "somewhere", budget=100)
    common = Spec(Call("opsd"), Call("tiny_calculation"), Run(rows=32))
    arms = arms_of(asked["arms"], common, {})
    assert len(arms) >= 3
    assert all(arm.draws for arm in arms), "else generated tokens are no budget"
    assert asked["options"]["budget"] == 100


def test_the_setting_of_real_models_is_one_that_compare_takes(tmp_path):
    data = tmp_path / "problems.jsonl"
    data.write_text('{"question": "1+1", "solution": "1+1=2", "answer": "2"}\n')
    of_compare = ("seeds", "length")
    options = {name: value for name, value in study.REAL.items() if name not in of_compare}
    spec = api.specify(Call("opsd"), {**options, "data": str(data)})
    assert spec.run.budget == 3_000_000
    assert spec.task.arguments["path"] == str(data)


def test_data_brings_the_setting_of_real_models(monkeypatch):
    asked = []

    def compare(arms, **options):
        asked.append(options)
        raise InterruptedError

    monkeypatch.setattr(study, "compare", compare)
    for options in ({}, {"data": "problems.jsonl", "lr": 1e-6}):
        with pytest.raises(InterruptedError):
            teachers.teachers(None, **options)
    small, real = asked
    assert (small["lr"], small["budget"]) == (5e-4, 24_000)
    assert (real["model"], real["lr"]) == ("Qwen/Qwen3-1.7B", 1e-6)


def test_options_are_values_or_words():
    given = ["budget=2e4", "seeds=(0, 1)", "model=Qwen/Qwen3-1.7B", "data=a=b.jsonl"]
    assert dict(map(study._option, given)) == {
        "budget": 2e4, "seeds": (0, 1), "model": "Qwen/Qwen3-1.7B", "data": "a=b.jsonl"
    }  # fmt: skip
    with pytest.raises(ValueError, match="no option"):
        study._option("budget")


def test_anti_climbs_what_opsd_descends(tiny):
    problems = tiny_calculation(train=3, test=1).train
    task = tiny_calculation(train=3, test=1)
    prompts = [tiny.render(task.prompt(problem)) for problem in problems]
    batch = batch_of(problems, prompts, [tiny.encode("7+8=15")] * 3, task)
    gradients = []
    for method in (opsd(length=8), signal.anti(length=8)):
        lm = replace(tiny, model=tiny.model)
        models = Models(lm)
        told = method.credit(batch, models)
        scores = models.scores(method.views(told, models), told)
        loss = (method.loss(scores, told) * method.weigh(told)).sum()
        gradients.append(torch.autograd.grad(loss, list(tiny.model.parameters())))
    assert all(torch.equal(up, -down) for down, up in zip(*gradients, strict=True))
    assert any(part.abs().max() > 0 for part in gradients[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_in_small(name, tmp_path, capsys):
    out = run(name, tmp_path / "run", **LITTLE)
    summary = json.loads((out / "compare.json").read_text())
    call = json.loads((out / "run.json").read_text())
    assert (out / "report.html").is_file()
    assert call["checkpoint_rule"] == "last"
    names = [arm["name"] for arm in summary["arms"]]
    assert ("anti" in names) == (name == "signal")
    for arm in summary["arms"]:
        # A step is never cut in the middle, so a budget is met within the rows of one.
        assert 200 <= arm["ledger"]["generated"] < 200 + 64 * 12
    shown = capsys.readouterr().out
    assert all(f"\n| {each} |" in shown for each in names)
