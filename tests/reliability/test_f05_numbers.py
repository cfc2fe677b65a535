"""F5: a number that is not finite, in each place where one can be.

The update is not made: weights, optimizer and averages stay. The fault names the first tensor on
the way of the batch, and the log shows the loss and the norm as they were.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from autodidact.batch import Batch
from autodidact.engine import Request
from autodidact.engines.outside import Answer, check
from autodidact.faults import say
from autodidact.grade import grade
from autodidact.guards import Diverged
from autodidact.learn import credited
from autodidact.measure import Tally
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.run import Directory, Run
from autodidact.train import Training, fit
from toys import toy_task

STEPS = Run(steps=9, rows=8, lr=1e-3)


def started(lm, method, run: Run = STEPS) -> Training:
    """A training after one good step, so that the optimizer has a state."""
    training = Training(method, Models(lm), toy_task(8), run)
    training.advance()
    assert training.fault is None
    return training


def frozen(training: Training) -> list[torch.Tensor]:
    """Copies of all that an update moves."""
    lms = [training.models.policy, *training.models.lasting().values()]
    weights = [p for lm in lms for p in lm.model.parameters()]
    states = [v for each in training.optimizer.state.values() for v in each.values()]
    return [value.detach().clone() for value in (*weights, *states)]


def poisoned(training: Training) -> dict:
    """Make a step that must fail, and see that nothing moved. Returns the fault and the line."""
    before = frozen(training)
    _, line = training.advance()
    after = frozen(training)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(bool(value.isfinite().all()) for value in after)
    assert line["skipped"] == 1 and training.skips == 1
    assert training.fault is not None and "fault" not in line
    return {**training.fault, "line": line}


def marked(batch: Batch, **values: float) -> Batch:
    """The batch with one number of each of these streams replaced: in row 2, at its second token."""
    column = int(batch.own[2].nonzero()[1])
    found = {}
    for name, value in values.items():
        stream = batch.take(name).clone()
        stream[(2,) if stream.dim() == 1 else (2, column)] = value
        found[name] = stream
    return batch.put(**found)


LONG = {"n": 2, "length": 6}


@pytest.mark.parametrize("name", ["logp", "raw", "advantage"])
def test_a_stream(qwen, name):
    method = grpo(**LONG)
    training = started(qwen, method)
    training.method = replace(
        method,
        credit=lambda batch, models: marked(method.credit(batch, models), **{name: math.nan}),
        loss=lambda scores, batch: method.loss(scores, batch) + 0 * batch.take(name),
    )
    fault = poisoned(training)
    [place] = fault["found"]
    assert place["tensor"] == f"stream {name!r}" and place["value"] == "NaN"
    assert place["row"] == 2 and place["count"] == 1 and place["text"]
    assert f"stream {name!r}: NaN in row 2" in say(place)
    assert math.isnan(fault["line"]["loss"])


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_value_of_the_loss(qwen, value):
    method = grpo(**LONG)
    training = started(qwen, method, replace(STEPS, micro_rows=2))

    def loss(scores, batch):
        bad = (batch.own.cumsum(1) == 1) & batch.own & (batch.take("number") == 5)[:, None]
        return method.loss(scores, batch).masked_fill(bad, value)

    def credit(batch, models):
        return method.credit(batch.put(number=torch.arange(len(batch))), models)

    training.method = replace(method, loss=loss, credit=credit)
    fault = poisoned(training)
    [place] = fault["found"]
    assert place["tensor"] == "value of the loss" and place["row"] == 5
    assert not math.isfinite(fault["line"]["loss"])


@pytest.mark.parametrize("role", ["initial", "ema:0.9"])
def test_one_row_of_a_teachers_head(qwen, role):
    training = started(qwen, opsd(length=6, teacher=role))
    teacher = training.models[role].model
    teacher.get_output_embeddings().weight.data[7] = math.nan
    before = [p.clone() for p in training.models.policy.model.parameters()]
    training.advance()
    assert training.fault is not None
    [place] = training.fault["found"]
    assert place["tensor"] == "log-probability of the view 'teacher'"
    assert place["count"] > 8 and place["row"] == 0
    now = training.models.policy.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_averages_wait_for_an_update(qwen):
    method = opsd(length=6, teacher="ema:0.5")
    training = started(qwen, method)
    training.method = replace(
        method, loss=lambda scores, batch: method.loss(scores, batch) * math.nan
    )
    average = next(iter(training.models.lasting().values()))
    policy = dict(qwen.model.named_parameters())
    assert any((p != policy[name]).any() for name, p in average.model.named_parameters())
    poisoned(training)


def test_a_hidden_state_of_the_policy(qwen):
    training = started(qwen, grpo(**LONG))
    read = type(training.models)._read

    def broken(models, view):
        output, head = read(models, view)
        return output.index_fill(0, view.at[view.asked][-1:], math.nan), head

    training.models._read = broken.__get__(training.models)
    places = poisoned(training)["found"]
    assert places[0]["tensor"] == "hidden state of the view 'policy'"
    assert places[0]["row"] == 7 and places[0]["count"] == 1


def test_one_gradient(qwen):
    training = started(qwen, grpo(**LONG, epochs=1))
    name, weight = list(qwen.model.named_parameters())[3]
    handle = weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), math.inf))
    fault = poisoned(training)
    handle.remove()
    [place] = fault["found"]
    assert place["tensor"] == f"gradient of {name}" and place["value"] == "Infinity"
    assert math.isfinite(fault["line"]["loss"]) and fault["line"]["grad_norm"] == math.inf


def test_the_learning_rate(qwen, monkeypatch):
    training = started(qwen, grpo(**LONG))
    monkeypatch.setattr(Training, "rate", lambda self: math.nan)
    fault = poisoned(training)
    assert [place["tensor"] for place in fault["found"]] == ["learning rate"]
    assert math.isnan(fault["line"]["lr"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "grad_clip", "budget"])
def test_options_that_are_not_finite_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}=(nan|inf) is not allowed"):
        Run(**{name: value})


def test_only_the_update_that_failed_is_left_out(qwen):
    """The second of two updates on a batch fails: the first stands, and averages wait."""
    method = grpo(**LONG, epochs=2)
    training = started(qwen, method)
    training.method = replace(
        method,
        loss=lambda scores, batch: (
            method.loss(scores, batch) / torch.where(batch.take("epoch") == 1, 0.0, 1.0)[:, None]
        ),
    )
    before = training.models.ledger.optimizer_steps
    training.advance()
    assert training.fault is not None and training.fault["epoch"] == 1
    assert training.models.ledger.optimizer_steps == before + 1


def test_an_infinite_reward_is_no_reward(qwen):
    """The row cannot be scored, and the others are learned from; it is counted."""
    task = replace(toy_task(8), reward=lambda rows, texts: [math.inf, -math.inf, 1.0, 0.0] * 2)
    training = Training(grpo(**LONG), Models(qwen), task, STEPS)
    batch, line = training.advance()
    assert line["unscorable"] == 0.5 and line["skipped"] == 0 and line["reward"] == 0.5
    assert torch.equal(batch.take("reward")[2:4], torch.tensor([1.0, 0.0]))
    assert grade(batch, training.models).take("reward").isnan().sum() == 4
    worth = credited(training.method, training.models, batch).take("advantage")
    assert (worth[:2] == 0).all() and (worth[2:4][batch.own[2:4]] != 0).all()


def test_a_streak_stops_the_run_and_a_good_step_ends_it(qwen):
    method = grpo(**LONG)
    bad = {2, 3, 5, 6, 7}

    def loss(scores, batch):
        spoiled = training.step + 1 in bad
        return method.loss(scores, batch) * (math.nan if spoiled else 1.0)

    training = Training(replace(method, loss=loss), Models(qwen), toy_task(8), STEPS)
    lines = []
    with pytest.raises(Diverged, match="stopped at step 7: 3 updates in a row") as stop:
        fit(training, lambda batch, line: lines.append(line), lambda fraction: None)
    assert [line["step"] for line in lines if line["skipped"]] == sorted(bad)
    assert "value of the loss: NaN in row 0" in str(stop.value) and "\n" not in str(stop.value)
    assert training.models.ledger.optimizer_steps == 2
    once = Training(training.method, Models(qwen), toy_task(8), replace(STEPS, max_skips=1))
    training = once
    with pytest.raises(Diverged, match="stopped at step 2: 1 updates"):
        fit(once, lambda batch, line: None, lambda fraction: None)
    with pytest.raises(ValueError, match="max_skips=0 is not allowed"):
        Run(max_skips=0)


def test_nothing_is_looked_for_while_all_is_finite(qwen, monkeypatch):
    def looked(*arguments, **options):
        raise AssertionError("looked")

    monkeypatch.setattr("autodidact.learn.located", looked)
    training = Training(grpo(**LONG), Models(qwen), toy_task(8), STEPS)
    training.advance()


def test_weights_that_are_not_finite_are_refused(qwen):
    qwen.check()
    name, weight = list(qwen.model.named_parameters())[5]
    weight.data.view(-1)[:3] = math.inf
    said = rf"weights of 'random Qwen3' are not finite: 3 of {weight.numel()} numbers of {name}"
    with pytest.raises(ValueError, match=said):
        qwen.check()


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_an_engine_that_tells_no_number_is_refused(qwen, value):
    request = Request((1, 2), 0, 2)
    end = min(qwen.ends)
    check(qwen, request, Answer([7, end], [-0.5, -0.5], 2), "the server")
    with pytest.raises(ValueError, match="the server gave the log-probability"):
        check(qwen, request, Answer([7, end], [value, -0.5], 2), "the server")


def test_the_log_is_strict_json_and_keeps_the_numbers(tmp_path):
    directory = Directory(tmp_path / "run")
    line = {"kind": "step", "step": 1, "loss": math.nan, "grad_norm": math.inf, "low": -math.inf}
    directory.append("metrics.jsonl", line, {**line, "step": 2, "deep": {"a": [math.nan, 1.0]}})

    def refuse(word):
        raise AssertionError(word)

    texts = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    raw = [json.loads(text, parse_constant=refuse) for text in texts]
    assert raw[0]["loss"] == "NaN" and raw[0]["grad_norm"] == "Infinity"
    assert raw[0]["low"] == "-Infinity" and raw[1]["deep"]["a"] == ["NaN", 1.0]
    (directory.path / "run.json").write_text("{}")
    read = list(Directory(directory.path, resume=True).lines("metrics.jsonl"))
    assert math.isnan(read[0]["loss"]) and read[0]["grad_norm"] == math.inf
    assert read[0]["low"] == -math.inf and read[0]["step"] == 1


def test_a_nan_is_not_lost_among_the_largest(qwen):
    """`max` hides a NaN that comes second."""
    training = started(qwen, grpo(**LONG))
    batch = training.ready()
    tally = Tally()
    views = training.method.views(batch, training.models)
    scores = training.models.scores(views, batch)
    assert scores["policy"].logp.shape == batch.ids.shape
    told = torch.zeros(batch.ids.shape)
    for each in (batch, marked(batch, raw=math.nan), batch):
        tally.piece(each, scores, told)
    means = tally.means()
    assert math.isnan(means["mismatch_max"]) and math.isnan(means["mismatch_mean"])
    assert math.isnan(means["kl"])
