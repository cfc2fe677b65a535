"""gkd: rows that are drawn or given, and what a teacher says about them."""

from __future__ import annotations

import pytest
import torch

from autodidact.law import Law
from autodidact.methods.gkd import gkd
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.rollouts.mixture import Mixture
from autodidact.rollouts.sample import Sample
from toys import about, perturb, random_logits, rows_of, toy_task


def told(method, models, batch):
    """The values of the loss on a batch, told by a teacher who fell behind."""
    batch = method.credit(batch, models)
    views = method.views(batch, models)
    for view in views.values():
        models[view.role]
    perturb(models.policy, 0.1)
    scores = {name: models.score(view, batch) for name, view in views.items()}
    return method.loss(scores, batch).detach() * method.weigh(batch)


def test_given_text_and_forward_is_the_cross_entropy_with_soft_labels(qwen):
    method, task = gkd(on_policy=0, divergence="forward"), toy_task()
    batch = method.rollout(task.train, Models(qwen), task, 0)
    written = [
        qwen.decode(ids[own].tolist()) for ids, own in zip(batch.ids, batch.own, strict=True)
    ]
    assert written == [problem.solution for problem in task.train]
    assert "solution" in method.needs and not method.rollout.draws
    batch, student, teacher = rows_of([3, 2]), random_logits(5, 3), random_logits(5, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    found = torch.autograd.grad(loss, student)[0]
    soft = teacher.softmax(-1).detach()
    other = torch.nn.functional.cross_entropy(student, soft)
    assert torch.allclose(found, torch.autograd.grad(other, student)[0], rtol=1e-6, atol=1e-9)
    rest = (soft * soft.log()).sum(-1).mean()
    assert torch.allclose(loss, other + rest, rtol=1e-6)


def test_the_jsd_over_a_small_beta_is_forward():
    batch, student, teacher = rows_of([5]), random_logits(5, 3), random_logits(5, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    small = gkd(on_policy=0, beta=1e-7).loss(scores, batch) / 1e-7
    assert torch.allclose(small, gkd(divergence="forward").loss(scores, batch), rtol=1e-5)


def test_drawn_text_alone_is_opsd_without_context(tokenizer):
    from toys import random_qwen

    task, found = toy_task(), []
    for method in (
        gkd(2, 5, on_policy=1, temperature=0.8),
        opsd(2, 5, "jsd", context="none", temperature=0.8),
    ):
        models = Models(random_qwen(tokenizer))
        batch = method.rollout(task.train, models, task, 1)
        found.append((batch.ids, told(method, models, batch)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1]) and found[0][1].abs().max() > 1e-4


def test_a_mixture_has_the_rows_of_sample_and_the_solutions(qwen):
    task, models, inner = toy_task(12), Models(qwen), Sample(4, 6, Law(0.7))
    batch, drawn = (
        rollout(task.train, models, task, 3) for rollout in (Mixture(inner, 0.3), inner)
    )
    given = batch.take("given")
    assert batch.temperature == 0.7 and batch.group.tolist() == drawn.group.tolist()
    assert 20 <= int(given.sum()) <= 44 and 0 < given[:4].sum() + given[4:8].sum() < 8
    for row, problem in enumerate(batch.rows):
        ids = batch.ids[row][batch.own[row]].tolist()
        if given[row]:
            assert ids == qwen.encode(problem.solution)
        else:
            assert ids == drawn.ids[row][drawn.own[row]].tolist()
    assert models.ledger.generated == int(drawn.own.sum() + (batch.own.sum(1) * (1 - given)).sum())


@pytest.mark.parametrize(("share", "given"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_ends_of_a_mixture(share, given, qwen):
    task = toy_task(4)
    batch = Mixture(Sample(2, 4), share)(task.train, Models(qwen), task, 0)
    assert (batch.take("given") == given).all()


def test_a_share_of_given_rows_tells_both_kinds(qwen):
    method, models, task = gkd(2, 5, on_policy=0.5), Models(qwen), toy_task(6)
    batch = method.rollout(task.train, models, task, 0)
    values = told(method, models, batch)
    rows = values.abs().sum(1) > 0
    assert rows.all() and 0 < float(batch.take("given").mean()) < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on_policy": 1.5}, "from 0 to 1"),
        ({"on_policy": 0.5, "correct": "token"}, "no law"),
        ({"on_policy": 0, "temperature": 0.7}, "draws nothing"),
        ({"divergence": "foward"}, "did you mean 'forward'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        gkd(**arguments)
