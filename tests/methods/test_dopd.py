"""dopd: four routes, of which every token takes one."""

from __future__ import annotations

import pytest
import torch

from autodidact.divergence import Divergence, Support
from autodidact.methods.dopd import _routes, dopd
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from toys import about, random_logits, random_qwen, rows_of, toy_task

LIGHT = Divergence("reverse", support=Support("student", 2))


def test_every_token_takes_one_route():
    able, own = (random_logits(500, seed=seed, size=1.5).detach() for seed in range(2))
    able[:3] = own[:3]
    masks = torch.stack(_routes(able, own, 1.0, 0.5))
    assert (masks.sum(0) == 1).all() and (masks.sum(1) > 10).all()


def test_each_route_has_its_own_divergence():
    batch = rows_of([40, 30])
    laws = [random_logits(70, 3, seed=seed, size=1.5) for seed in range(3)]
    policy, teacher, own = (about(batch, law) for law in laws)
    method = dopd(gap=0.8, sure=0.5, light=0.2, weak=0.03)
    values = method.loss({"policy": policy, "teacher": teacher, "told": own}, batch)
    masks = _routes(teacher.logp[batch.own], own.logp[batch.own], 0.8, 0.5)
    expected = [
        policy.divergence(teacher, Divergence("jsd")),
        0.2 * policy.divergence(own, LIGHT),
        0.2 * policy.divergence(teacher, LIGHT),
        0.03 * policy.divergence(own, LIGHT),
    ]
    for mask, each in zip(masks, expected, strict=True):
        assert mask.any()
        assert torch.equal(values[batch.own][mask], each[batch.own][mask])


def test_any_gap_beyond_reach_leaves_the_light_reverse_divergence():
    batch = rows_of([5])
    policy, teacher = (about(batch, random_logits(5, 3, seed=seed)) for seed in range(2))
    scores = {"policy": policy, "teacher": teacher, "told": teacher}
    found = dopd(gap=1e9, sure=0.0, light=1.0).loss(scores, batch)
    other = opsd(divergence="reverse", support="student", k=2).loss(scores, batch)
    assert torch.equal(found, other)


def test_the_student_itself_reads_what_the_teacher_reads(tokenizer):
    models, task = Models(random_qwen(tokenizer)), toy_task()
    method = dopd(length=4)
    batch = method.credit(method.rollout(task.train, models, task, 0), models)
    views = method.views(batch, models)
    assert torch.equal(views["told"].ids, views["teacher"].ids)
    assert (views["told"].role, views["teacher"].role) == ("policy", "initial")
    scores = {name: models.score(view, batch) for name, view in views.items()}
    assert not scores["told"].hidden.requires_grad
    assert torch.allclose(scores["told"].logp, scores["teacher"].logp)


@pytest.mark.parametrize("arguments", [{"gap": 0.0}, {"light": -1.0}])
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="a gap must be above 0"):
        dopd(**arguments)
