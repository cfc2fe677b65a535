"""Temperatures that follow the entropy: the law by hand, who may draw from it, and the rollout."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from autodidact.calls import Call
from autodidact.checkpoint import complete as complete_checkpoints
from autodidact.engines.outside import served
from autodidact.law import Law
from autodidact.models import Models
from autodidact.rollouts.choose import WithSpread
from autodidact.rollouts.heated import Heating, heated, of_batch
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.session import Watcher, execute
from autodidact.spec import Spec
from autodidact.store import Store
from autodidact.view import plain
from toys import generate, random_logits, toy_task

MARKS = (0.2, -2.0, 0.5)
"""Pivot, low and high."""


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def test_the_law_is_the_softmax_at_the_temperature_of_its_own_entropy():
    """T (1 + gain h), h from log H between low, pivot and high: 0 at the pivot, cut at -1 and 1."""
    sizes = torch.tensor([0.0, 0.3, 1.0, 3.0, 9.0, 40.0]).double()[:, None]
    logits = sizes * random_logits(6, 5).detach()
    law = heated(Law(0.7), 0.4, MARKS)
    raw, found = law.log_probs(logits)
    assert torch.equal(raw, (logits / 0.7).log_softmax(-1))
    places = []
    for row, entropy in zip(range(6), entropy_of(logits / 0.7).tolist(), strict=True):
        e = math.log(max(entropy, 1e-6)) - 0.2
        place = min(e / 0.3, 1.0) if e > 0 else max(e / 2.2, -1.0)
        wanted = (logits[row] / (0.7 * (1 + 0.4 * place))).log_softmax(-1)
        assert torch.allclose(found[row], wanted, rtol=1e-10)
        places.append(place)
    assert places[0] > 0.5 and places[-1] == -1 and any(-1 < place < 0 for place in places)


def test_the_released_sign_heats_the_sure_tokens_too():
    entropies = torch.tensor([0.2, 1.0, 1.6, 2.2]).double()
    right, released = heated(Law(), 0.1, MARKS), heated(Law(), 0.1, MARKS, legacy_sign=True)
    assert right.heat(entropies).min() < 0
    assert torch.equal(released.heat(entropies), right.heat(entropies).abs())


def test_truncation_comes_after_the_heat_and_leaves_raw_alone():
    logits = random_logits(4, 6, size=2.0).detach()
    whole = heated(Law(), 0.5, MARKS).log_probs(logits)[1]
    raw, cut = heated(Law(1.0, top_k=2), 0.5, MARKS).log_probs(logits)
    assert torch.equal(raw, logits.log_softmax(-1))
    best = whole.topk(2).values.log_softmax(-1)
    assert torch.allclose(cut.sort(descending=True).values[:, :2], best, rtol=1e-10)
    assert (cut == -torch.inf).sum(1).tolist() == [4] * 4


def test_weights_bring_back_the_law_at_the_base_temperature():
    """E_drawn[exp(raw - logp) f] = E_base[f], by enumeration."""
    logits, f = random_logits(5, 7, size=2.0).detach(), random_logits(5, 7, seed=3).detach()
    raw, drawn = heated(Law(1.2), 0.3, MARKS).log_probs(logits)
    assert float((raw - drawn).abs().max()) > 0.05
    back = (drawn.exp() * (raw - drawn).exp() * f).sum(-1)
    assert torch.allclose(back, (raw.exp() * f).sum(-1), rtol=1e-12)


def test_without_a_gain_it_draws_as_the_plain_law():
    logits = random_logits(4, 6).detach()
    found = heated(Law(0.8), 0.0, MARKS).log_probs(logits)
    assert all(
        torch.allclose(a, b, rtol=1e-12)
        for a, b in zip(found, Law(0.8).log_probs(logits), strict=True)
    )


@pytest.mark.parametrize(
    ("law", "gain", "marks"),
    [(Law(0.0), 0.1, MARKS), (Law(), 1.0, MARKS), (Law(), -0.1, MARKS), (Law(), 0.1, (1, 2, 3))],
)
def test_nonsense_is_refused(law, gain, marks):
    with pytest.raises(ValueError, match=r"gain|pivot"):
        heated(law, gain, marks)


def test_engines_outside_refuse_it_and_stores_keep_it_apart(qwen, tmp_path):
    law = heated(Law(), 0.4, MARKS)
    with pytest.raises(ValueError, match="follows the entropy"):
        served(law)
    served(Law())
    task, store = toy_task(2), Store(tmp_path / "store.sqlite")
    models = Models(qwen, store)
    models.version = "one"
    for each in (Law(), law, heated(Law(), 0.4, (0.3, -2.0, 0.5)), law):
        Sample(2, 4, each)(task.train, models, task, 1)
    assert len(store) == 3 * 4
    store.close()


def test_the_engine_tells_both_log_probabilities(qwen):
    """`logp` under the heated law, `raw` at the base temperature, as the model reads them again."""
    law = heated(Law(0.9), 0.5, (0.5, -3.0, 2.0))
    prompt = qwen.render(toy_task().prompt(toy_task().train[0]))
    (drawn,) = generate(qwen, [prompt], [range(3)], 6, law, 5)
    for each in drawn:
        ids = torch.tensor([[*prompt, *each.ids]])
        with torch.no_grad():
            logits = qwen.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        raw, kept = law.log_probs(logits)
        at = range(len(each.ids)), each.ids
        assert raw[at].tolist() == pytest.approx(each.raw, abs=1e-5)
        assert kept[at].tolist() == pytest.approx(each.logp, abs=1e-5)
        assert (kept - raw)[at].abs().max() > 1e-3


# ------------------------------------------------------------------ the rollout


def test_the_first_call_is_a_plain_sample_and_later_ones_are_heated(qwen):
    """The second call draws from the law whose marks are those of the first batch."""
    task, models = toy_task(4), Models(qwen)
    rollout = Heating(3, 6, Law(0.9), gain=0.5)
    first = rollout(task.train, models, task, 1)
    wanted = Sample(3, 6, Law(0.9))(task.train, models, task, 1)
    assert torch.equal(first.ids, wanted.ids)
    assert torch.equal(first.take("logp"), wanted.take("logp"))
    with torch.no_grad():
        entropy = models.score(plain(wanted), wanted).entropy
    assert torch.allclose(first.take("entropy"), entropy, rtol=1e-12)
    logs = entropy[wanted.own].log()
    marks = (float(logs.quantile(0.8)), float(logs.min()), float(logs.max()))
    assert rollout.memory.marks == pytest.approx(marks, rel=1e-9)
    second = rollout(task.train, models, task, 2)
    law = heated(Law(0.9), 0.5, of_batch(first.take("entropy"), first.own))
    wanted = Sample(3, 6, law)(task.train, models, task, 2)
    assert torch.equal(second.ids, wanted.ids)
    assert torch.equal(second.take("logp"), wanted.take("logp"))
    assert (second.take("logp") - second.take("raw")).abs().max() > 1e-2


def test_without_a_gain_every_call_is_a_sample(qwen):
    task, models = toy_task(4), Models(qwen)
    for waves in (1, 2):
        rollout = Heating(3, 6, waves=waves, gain=0.0)
        inner = Sample(3, 6) if waves == 1 else WithSpread(Sample(3, 6), 2)
        assert rollout.problems(12) == inner.problems(12)
        for seed in (1, 2):
            found = rollout(task.train, models, task, seed)
            wanted = inner(task.train, models, task, seed)
            assert torch.equal(found.ids, wanted.ids)
            for name in wanted.streams:
                assert torch.equal(found.take(name), wanted.take(name))


def test_it_goes_on_from_its_state(qwen):
    task, models = toy_task(4), Models(qwen)
    rollout = Heating(3, 6, gain=0.5)
    rollout(task.train, models, task, 1)
    again = rollout.fresh()
    assert again.memory.marks is None and again == rollout
    assert again.state() is not None, "what it draws depends on what it drew, from the start"
    again.restore(json.loads(json.dumps(rollout.state())))
    one, two = (each(task.train, models, task, 2) for each in (rollout, again))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.take("logp"), two.take("logp"))


def test_a_batch_without_rows_leaves_the_marks_as_they_were(qwen):
    task, models = toy_task(4), Models(qwen)
    rollout = Heating(3, 6, waves=2)
    rollout(task.train, models, task, 1)
    marks = rollout.memory.marks
    dull = replace(task, reward=lambda problems, texts: [1.0] * len(texts))
    batch = rollout(task.train, models, dull, 2)
    assert len(batch) == 0 and rollout.memory.marks == marks
    assert batch.take("entropy").shape == batch.ids.shape


@pytest.mark.parametrize("wrong", [{"n": 0}, {"share": 1.5}, {"gain": 1.0}, {"law": Law(0.0)}])
def test_a_rollout_of_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least|quantile|gain"):
        Heating(**wrong)


class Pull(Watcher):
    """Pulls the plug after the third step."""

    def step(self, line, fraction):
        if line["step"] == 3:
            raise KeyboardInterrupt


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    from safetensors.torch import load_file

    spec = Spec(
        Call("hapo", {"n": 4, "length": 12, "gain": 0.3, "waves": 1}),
        Call("tiny_calculation", {"train": 20, "test": 4}),
        Run(steps=4, rows=8, lr=1e-3, eval_points=1, eval_problems=2, eval_samples=2,
            eval_length=8, save_every=2),
    )  # fmt: skip
    whole = execute(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path / "broken", watcher=Pull())
    resumed = execute(spec, tmp_path / "broken", resume=True)
    assert (whole / "samples.jsonl").read_text() == (resumed / "samples.jsonl").read_text()
    one, two = (complete_checkpoints(each / "checkpoints")[-1] for each in (whole, resumed))
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files
    for name in files:
        left, right = load_file(one / name), load_file(two / name)
        assert all(torch.equal(left[key], right[key]) for key in left)
