"""The engine of a run is one word, and a wrong one is known before anything is written."""

from __future__ import annotations

import json

import pytest

from autodidact import api, calls, settings
from autodidact.calls import Call
from autodidact.engines.local import Local
from autodidact.engines.speculative import Speculative
from autodidact.law import Law
from autodidact.model import load
from autodidact.models import Models
from autodidact.rollouts.sample import solve
from autodidact.spec import Spec, make_engine

SMALL_RUN = {"steps": 1, "rows": 4, "eval_points": 1, "eval_problems": 2, "eval_samples": 1}


def lines(path) -> list[dict]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "peak_bytes")
    for line in found:
        line["ledger"] = {k: v for k, v in line["ledger"].items() if k not in timed}
    return found


def of(text: str):
    return make_engine(Spec(Call("opsd"), Call("tiny_calculation"), engine=calls.parse(text)))


def test_engines_by_name():
    assert of("local(slots=3)") == Local(3)
    assert isinstance(of("speculative(draft=tiny, guess=2)"), Speculative)
    assert make_engine(Spec(Call("opsd"), Call("tiny_calculation"))) is None
    with pytest.raises(ValueError, match=r"engine 'locl' is unknown; .* did you mean 'local'"):
        of("locl")
    with pytest.raises(ValueError, match=r"local has no option 'slot'; .*did you mean 'slots'"):
        of("local(slot=3)")


def test_masked_models_are_drawn_from_by_engines_of_their_own():
    task = calls.make(
        calls.task, calls.parse("sudoku(wording=terse, canvas=true, train=4, test=2)")
    )
    models = Models(load("tiny_diffusion"))
    for text in ("denoise(steps=4)", "cached(steps=4, cache=dual, block=8)"):
        models.engine = of(text)
        [[found], _] = solve(models, task, task.test, 1, 16, Law(0.0), 0)
        assert len(found.ids) == 16 and max(found.order) <= 4 and found.written == 8
    models.engine = None
    assert solve(models, task, task.test, 1, 16, Law(0.0), 0)[0][0].order is not None
    models.engine = Local()
    with pytest.raises(ValueError, match=r"is a masked model.*'denoise'"):
        solve(models, task, task.test, 1, 16, Law(0.0), 0)


def test_a_spec_remembers_its_engine():
    spec = settings.specify(Call("opsd"), {"engine": "local(slots=5)"})
    assert Spec.of(json.loads(json.dumps(spec.describe()))) == spec
    assert spec.engine == Call("local", {"slots": 5})


@pytest.mark.slow
def test_few_slots_make_the_same_run(tmp_path):
    plain = api.train("opsd(length=8)", out=tmp_path / "plain", **SMALL_RUN)
    other = api.train("opsd(length=8)", out=tmp_path / "few", engine="local(slots=2)", **SMALL_RUN)
    one, two = lines(plain), lines(other)
    assert [line["ledger"]["generated"] for line in one] == [
        line["ledger"]["generated"] for line in two
    ]
    first, second = (next(x for x in each if x["kind"] == "step") for each in (one, two))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_draft_proposes_in_training(tmp_path):
    path = api.train(
        "opsd(length=8)", out=tmp_path / "run", engine="speculative(draft=tiny)", **SMALL_RUN
    )
    [step] = [line for line in lines(path) if line["kind"] == "step"]
    assert step["ledger"]["drafted"] >= step["ledger"]["generated"] > 0
    assert step["mismatch_max"] < 1e-3
    assert json.loads((path / "run.json").read_text())["spec"]["engine"]["name"] == "speculative"


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("server(url='http://127.0.0.1:9', retries=0)", "no answer from http://127.0.0.1:9"),
        ("speculative(draft='./nowhere')", "role './nowhere' is none of policy, initial"),
        ("vllm", "the vLLM engine needs the package vllm"),
    ],
)
def test_what_cannot_draw_is_known_before_anything_is_written(tmp_path, engine, reason):
    with pytest.raises(ValueError, match=reason):
        api.train("opsd(length=8)", out=tmp_path / "run", engine=engine, **SMALL_RUN)
    assert not (tmp_path / "run").exists()
