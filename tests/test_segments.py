"""Completions in segments: the same as undivided ones, under any budget, across a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from autodidact import checkpoint
from autodidact.batch import join
from autodidact.law import Law
from autodidact.methods.rft import rft
from autodidact.methods.sft import sft
from autodidact.microscope import look
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.segments import Segments
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain
from toys import perturb, photograph, random_qwen, toy_task

LENGTH = 9


def rows(batch):
    """What each row of a batch is, in any order of the rows."""
    return sorted(
        (
            batch.rows[i].question,
            batch.ids[i][batch.real[i]].tolist(),
            batch.take("logp")[i][batch.own[i]].tolist(),
            batch.take("raw")[i][batch.own[i]].tolist(),
            float(batch.take("finished")[i]),
        )
        for i in range(len(batch))
    )


def test_with_the_whole_budget_every_call_is_a_sample(qwen):
    task, models = toy_task(4), Models(qwen)
    segments = Segments(3, LENGTH, LENGTH, law=Law(top_k=40))
    for seed in (1, 2):
        found = photograph(segments(task.train, models, task, seed))
        expected = photograph(Sample(3, LENGTH, Law(top_k=40))(task.train, models, task, seed))
        assert not found.pop("age").any()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert segments.problems(12) == 4


@pytest.mark.parametrize("budget", [1, 2, 4])
@pytest.mark.parametrize("gives", ["finished", "groups"])
def test_the_pieces_make_the_undivided_completion(qwen, budget, gives):
    task, models = toy_task(5), Models(qwen)
    segments = Segments(3, LENGTH, budget, gives)
    batches = [segments(task.train, models, task, 7)]
    while segments.pool.paths:
        batches.append(segments([], models, task, 7))
    whole = Sample(3, LENGTH)(task.train, Models(qwen), task, 7)
    assert rows(join(batches)) == rows(whole)
    assert len(batches) == -(-LENGTH // budget)
    assert models.ledger.generated == int(whole.own.sum()), "no token is drawn twice"
    for call, batch in enumerate(batches):
        assert batch.group.unique().tolist() == list(range(len(set(batch.group.tolist()))))
        for row in range(len(batch)):
            age, own = batch.take("age")[row], batch.own[row]
            expected = call - torch.arange(int(own.sum())) // budget
            if gives == "finished":
                assert torch.equal(age[own], expected) and not age[~own].any()
            else:
                assert torch.equal(age[own], expected) and len(batch) % 3 == 0


def test_rows_that_go_on_can_be_had_as_they_stand(qwen):
    task, models = toy_task(5), Models(qwen)
    segments = Segments(3, LENGTH, 4, "all")
    seen = 0
    for call in range(3):
        batch = segments(task.train if call == 0 else [], models, task, 7)
        whole = Sample(3, min(LENGTH, 4 * (call + 1)))(task.train, Models(qwen), task, 7)
        assert set(map(str, rows(batch))) <= set(map(str, rows(whole)))
        seen += int((batch.own & (batch.take("age") == 0)).sum())
    assert seen == models.ledger.generated == int(whole.own.sum()), "each token is new once"
    assert not segments.pool.paths


def test_later_segments_are_drawn_from_the_weights_of_their_time(qwen):
    task, models = toy_task(5), Models(qwen)
    segments = Segments(2, 6, 3, law=Law(0.9))
    segments(task.train, models, task, 1)
    with torch.no_grad():
        old = [p.clone() for p in qwen.model.parameters()]
    perturb(qwen, 0.05)
    batch = segments([], models, task, 2)
    age, own = batch.take("age"), batch.own
    assert len(batch) and set(age[own].tolist()) == {0, 1}
    with torch.no_grad():
        now = models.score(plain(batch), batch).logp
        for p, value in zip(qwen.model.parameters(), old, strict=True):
            p.copy_(value)
        before = models.score(plain(batch), batch).logp
    # The second segment was read with the keys of the prompt as the new weights make them.
    expected = torch.where(age == 1, before, now)[own]
    assert torch.allclose(batch.take("raw")[own].double(), expected, atol=1e-5)
    assert not torch.allclose(before[own], now[own], atol=1e-3)


def test_new_problems_enter_where_places_are_free(qwen):
    task, models = toy_task(16), Models(qwen)
    segments, position, seen = Segments(2, LENGTH, 3), 0, set()
    for call in range(12):
        count = segments.problems(8)
        going = len(segments.pool.paths)
        assert 8 - going - 1 <= 2 * count <= 8 - going
        seen.add(count)
        problems = [task.train[(position + i) % 16] for i in range(count)]
        segments(problems, models, task, call)
        assert len(segments.pool.paths) <= 8
        position += count
    assert len(seen) > 1 and position > 16
    with pytest.raises(ValueError, match="multiple"):
        segments.problems(7)


@pytest.mark.parametrize("gives", ["finished", "groups", "all"])
def test_it_goes_on_from_its_state(qwen, gives):
    task, models = toy_task(5), Models(qwen)
    law = Law(top_k=30)
    one, two = Segments(3, LENGTH, 3, gives, law), Segments(3, LENGTH, 3, gives, law)
    one(task.train[:3], models, task, 1)
    two.restore(json.loads(json.dumps(one.state())))
    for seed in (2, 3, 4):
        first, second = (s(task.train[seed : seed + 1], models, task, seed) for s in (one, two))
        assert first.rows == second.rows and one.state() == two.state()
        first, second = photograph(first), photograph(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert not replace(one).pool.paths, "a copy begins empty"


def test_a_method_trains_on_what_is_over(qwen):
    task, models = toy_task(8), Models(qwen)
    task = replace(task, reward=lambda problems, texts: [1.0] * len(texts))
    method = replace(rft(n=2, length=6), rollout=Segments(2, 6, 2))
    training = Training(method, models, task, Run(steps=4, rows=8))
    lines = [training.advance()[1] for _ in range(4)]
    assert lines[2]["rows"] and models.ledger.trained < models.ledger.generated
    assert 4 <= training.position < 16


def test_nonsense_is_refused(qwen):
    task, models = toy_task(2), Models(qwen)
    with pytest.raises(ValueError, match="did you mean 'groups'"):
        Segments(gives="group")
    with pytest.raises(ValueError, match="budget=0"):
        Segments(budget=0)
    segments = Segments(1, 300, 2)
    with pytest.raises(ValueError, match="do not fit the context of 256"):
        segments(task.train, models, task, 1)
    assert not segments.pool.paths and not segments.pool.calls


def test_a_run_goes_on_with_what_was_being_written(tokenizer, tmp_path):
    """Stopped and resumed after any step, it ends as the run that was not stopped."""

    def training() -> Training:
        method = replace(sft(), rollout=Segments(1, 9, 3, law=Law(0.8)), needs=())
        return Training(method, Models(random_qwen(tokenizer)), toy_task(8), Run(steps=4, rows=4))

    whole = training()
    lines = [whole.advance()[1] for _ in range(4)]
    for stop in (1, 2, 3):
        first, second = training(), training()
        for _ in range(stop):
            first.advance()
        checkpoint.restore(second, checkpoint.save(first, tmp_path / str(stop)))
        rest = [second.advance()[1] for _ in range(4 - stop)]
        for one, two in zip(lines[stop:], rest, strict=True):
            one, two = ({k: v for k, v in x.items() if k != "ledger"} for x in (one, two))
            assert one == two
    assert any(line.get("rows", 0) != 4 for line in lines), "some were still being written"


def test_what_is_being_written_is_neither_looked_at_nor_drawn_ahead(tokenizer):
    models, task = Models(random_qwen(tokenizer)), toy_task(8)
    method = replace(sft(), rollout=Segments(1, 9, 3), needs=())
    method.rollout(task.train[:4], models, task, 0)
    before = method.rollout.state()
    look(method, models, task, task.test)
    assert method.rollout.state() == before and before["paths"]
    with pytest.raises(ValueError, match="staleness=1: what Segments draws depends on"):
        Training(replace(method, stale=True), models, task, Run(steps=1, rows=4, staleness=1))
