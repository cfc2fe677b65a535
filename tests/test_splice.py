"""Forced text inside completions: whose tokens are whose, and the law of what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.law import Law
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.splice import Splice
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain
from toys import toy_task

TEXT = "Wait"


def pieces(batch, row, prompt):
    """(the ids of a completion, which of them are its own)."""
    ids, own = batch.ids[row][batch.real[row]], batch.own[row][batch.real[row]]
    return ids[prompt:].tolist(), own[prompt:].tolist()


@pytest.mark.parametrize("law", [Law(0.9), Law(top_k=20), Law(0.0)], ids=str)
def test_a_row_is_a_draw_without_its_end_then_the_text_then_a_draw_from_there(qwen, law):
    task, models, seed = toy_task(8), Models(qwen), 5
    batch = Splice(2, 4, TEXT, 3, 1, law)(task.train, models, task, seed)
    first = Sample(2, 4, law)(task.train, Models(qwen), task, seed)
    forced, drawn, kinds = list(TEXT.encode()), 0, set()
    forced = [qwen.tokenizer.convert_tokens_to_ids(t) for t in qwen.tokenizer.tokenize(TEXT)]
    for row, problem in enumerate(batch.rows):
        prompt = qwen.render(task.prompt(problem))
        ids, own = pieces(batch, row, len(prompt))
        begun = pieces(first, row, len(prompt))[0]
        drawn += len(begun)
        finished = bool(first.take("finished")[row])
        kept = begun[: len(begun) - finished]
        kinds.add((finished, bool(kept)))
        if not kept:
            assert (ids, own) == (begun, [True]) and batch.take("finished")[row] == 1
            continue
        request = Request(tuple(prompt), row % 2, 3, (*kept, *forced))
        more = Local().draw(qwen, [request], law, seed).completions[0]
        drawn += len(more.ids)
        assert ids == kept + forced + more.ids
        assert own == [True] * len(kept) + [False] * len(forced) + [True] * len(more.ids)
        assert batch.take("finished")[row] == more.finished
        for name, values in (("logp", more.logp), ("raw", more.raw)):
            stream = batch.take(name)[row][batch.real[row]][len(prompt) + len(kept) :].tolist()
            assert stream == pytest.approx([0.0] * len(forced) + values, abs=1e-6)
    assert {(False, True)} < kinds or law.greedy
    assert models.ledger.generated == drawn, "a dropped end token was drawn too"


def test_it_may_be_spliced_again_and_an_end_is_dropped_each_time(qwen):
    task, models = toy_task(8), Models(qwen)
    batch = Splice(2, 4, TEXT, 3, 3)(task.train, models, task, 5)
    long = 0
    for row, problem in enumerate(batch.rows):
        prompt = qwen.render(task.prompt(problem))
        ids, own = pieces(batch, row, len(prompt))
        if len(ids) == 1:
            continue
        assert qwen.decode(ids).count(TEXT) >= 3 and own.count(False) == 3 * len(TEXT)
        assert not qwen.ends & {i for i, mine in zip(ids[:-1], own[:-1], strict=True) if mine}
        long += 1
    assert long > 8


def test_views_ask_the_own_tokens_only_and_their_law_is_that_of_sampling(qwen):
    task, models = toy_task(6), Models(qwen)
    batch = Splice(2, 4, TEXT, 4, 2, Law(0.8))(task.train, models, task, 1)
    assert torch.equal(plain(batch).asked, batch.own)
    assert (batch.real & ~batch.own).sum() > batch.real.sum() // 3
    with torch.no_grad():
        logp = models.score(plain(batch), batch).logp
    assert torch.allclose(logp[batch.own].float(), batch.take("raw")[batch.own], atol=1e-5)
    assert not batch.take("logp")[~batch.own].any()


def test_the_support_of_given_tokens_is_empty(qwen):
    task, models = toy_task(6), Models(qwen)
    batch = Splice(2, 4, TEXT, 4, 1, Law(top_k=5))(task.train, models, task, 1)
    held = (batch.take("support") >= 0).sum(-1)
    assert torch.equal(held > 0, batch.own) and int(held.max()) == 5


@pytest.mark.parametrize("factory", [opsd, grpo])
def test_a_method_learns_from_it(qwen, factory):
    task = toy_task(4)
    method = factory(n=2, length=6)
    spliced = replace(method, rollout=Splice(2, 3, TEXT, 2))
    models = Models(qwen)
    training = Training(spliced, models, task, Run(steps=1, rows=8))
    before = [p.detach().clone() for p in qwen.model.parameters()]
    batch, line = training.advance()
    assert models.ledger.trained == int(batch.own.sum()) and line["skipped"] == 0
    assert line["mismatch_max"] < 1e-4
    assert any(not torch.equal(a, b) for a, b in zip(before, qwen.model.parameters(), strict=True))


def test_its_length_is_a_bound_and_nonsense_is_refused(qwen):
    task, models = toy_task(6), Models(qwen)
    rollout = Splice(2, 4, "Wé", 4, 2)
    batch = rollout(task.train, models, task, 1)
    prompt = min(len(qwen.render(task.prompt(p))) for p in task.train)
    assert rollout.length == 4 + 2 * (3 + 4) and batch.ids.shape[1] <= prompt + 1 + rollout.length
    with pytest.raises(ValueError, match="text=''"):
        Splice(text="")
    with pytest.raises(ValueError, match="more=0"):
        Splice(more=0)
    with pytest.raises(ValueError, match="do not fit the context of 256"):
        Splice(1, 4, "x" * 300, 4)(task.train, models, task, 1)
