"""A teacher may write about what it is told before it judges."""

from __future__ import annotations

import pytest
import torch

from autodidact.contexts import TOLD, Context
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.rollouts.reason import reasoning
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.teachers import Teacher
from autodidact.train import Training
from toys import photograph, random_qwen, toy_task


def test_what_it_wrote_follows_what_it_was_told(qwen):
    models, task = Models(qwen), toy_task(3)
    batch = Sample(2, 4)(task.train, models, task, 0)
    before, drawn = photograph(batch), models.ledger.generated
    told = Context("solution")
    plainly = told.tell(batch, models)
    found = reasoning(told, Teacher.parse("initial"), 6)(batch, models)
    assert all(torch.equal(v, before[n]) for n, v in photograph(batch).items())
    assert 0 < models.ledger.generated - drawn <= 3 * 6, "once for each problem"
    for one, two in zip(plainly.rows, found.rows, strict=True):
        (kind, text), (other_kind, longer) = one.meta[TOLD], two.meta[TOLD]
        assert kind == other_kind and longer.startswith(f"{text}\n\n")
    for row in range(0, 6, 2):
        assert found.rows[row].meta[TOLD] == found.rows[row + 1].meta[TOLD]
    again = reasoning(told, Teacher.parse("initial"), 6)(batch, models)
    assert [p.meta[TOLD] for p in again.rows] == [p.meta[TOLD] for p in found.rows]


def test_with_nothing_to_write_it_tells():
    told = Context("answer")
    assert reasoning(told, Teacher.parse("initial"), 0) == told.tell
    with pytest.raises(ValueError, match="reason=-1"):
        reasoning(told, Teacher.parse("initial"), -1)


def test_a_step_of_opsd_with_it(tokenizer):
    lines = []
    for reason in (0, 5):
        models = Models(random_qwen(tokenizer))
        training = Training(
            opsd(length=4, reason=reason), models, toy_task(4), Run(steps=1, rows=4)
        )
        lines.append(training.advance()[1])
    assert lines[1]["loss"] != lines[0]["loss"] and lines[1]["skipped"] == 0
    assert lines[1]["ledger"]["generated"] > lines[0]["ledger"]["generated"]
    assert lines[1]["ledger"]["teacher_forward"] > lines[0]["ledger"]["teacher_forward"]
