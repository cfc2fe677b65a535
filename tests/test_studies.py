"""The studies: their arms are methods of the library, and they run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from recipes.studies import (
    credit,
    divergence,
    forking,
    length,
    privilege,
    signal,
    study,
    support,
    teachers,
)

from autodidact import settings
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
    spec = settings.specify(Call("opsd"), {**options, "data": str(data)})
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
@pytest.mark.long
@pytest.mark.parametrize("name", ["signal", "forking"])
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


def test_the_study_of_credit_has_arms_that_exist_on_both_tasks(monkeypatch, tmp_path):
    """Countdown starts from weights of its own, which are made once."""
    asked, made = [], []

    def seen(arms, out, options, aside=None, write=None):
        common = Spec(Call("opsd"), Call("tiny_calculation"), Run(rows=32))
        asked.append((arms_of(arms, common, {"n": 8, "length": 40}), out, options))
        return out

    def warmed(folder):
        made.append(folder)
        folder.mkdir(parents=True)

    monkeypatch.setattr(credit, "study", seen)
    monkeypatch.setattr(credit, "warmed", warmed)
    credit.credit(tmp_path / "one", budget=100)
    for _ in range(2):
        credit.credit(tmp_path / "two", on="countdown", budget=100)
    assert made == [tmp_path / "two" / "base"]
    (first, _, calculation), (second, place, countdown), _ = asked
    assert len(first) == len(second) == len(credit.ARMS)
    assert len({arm.name for arm in first}) == len(first)
    assert "model" not in calculation and countdown["model"] == str(made[0])
    assert countdown["task"] == "tiny_countdown" and place == tmp_path / "two" / "comparison"
    with pytest.raises(ValueError, match="did you mean 'countdown'"):
        credit.credit(tmp_path, on="countdwn")


def test_puzzles_that_warm_the_model_are_none_of_the_comparison(monkeypatch, tmp_path):
    """Neither to learn from nor held out; else a study of credit would be one of memory."""
    trained = []
    monkeypatch.setattr(credit, "fit", lambda training, *_: trained.append(training.task))
    credit.warmed(tmp_path / "base")
    [task] = trained
    compared = credit.tiny_countdown()
    known = {credit.key(p) for p in (*compared.train, *compared.test)}
    assert len(task.train) > 1000 and not known & {credit.key(p) for p in task.train}
    assert (tmp_path / "base" / "model.safetensors").is_file()


@pytest.mark.long
def test_the_table_of_credit_tells_the_noise_of_every_arm(tmp_path):
    arms = ("grpo(n=4, length=12)", "otr")
    found = credit.credit(tmp_path / "run", arms=arms, **LITTLE, n=4)
    noise = json.loads((found / "noise.json").read_text())
    assert list(noise) == ["grpo-n-4-length-12"] or list(noise) == ["grpo"]
    head, _, before, *rows = credit.measured(found).splitlines()
    assert head.endswith("| credited | noise |") and before.startswith("| before |")
    assert len(rows) == 2
