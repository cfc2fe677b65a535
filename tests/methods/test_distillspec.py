"""distillspec: the divergence of a draft to its target, and who writes the text."""

from __future__ import annotations

import pytest
import torch

from autodidact.engines.accept import acceptance
from autodidact.law import Law
from autodidact.methods.distillspec import distillspec
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.rollouts.role import FromRole
from autodidact.rollouts.sample import Sample
from toys import about, perturb, random_logits, random_qwen, rows_of, toy_task

DIVERGENCES = ("forward", "reverse", "jsd", "tv")


@pytest.fixture
def pair():
    """Two rows of 3 and 2 tokens, a draft and a target over three words."""
    return rows_of([3, 2]), random_logits(5, 3, size=2.0), random_logits(5, 3, seed=1, size=2.0)


@pytest.fixture
def roles(tokenizer):
    """A draft, and another random model in the role of its target."""
    models = Models(random_qwen(tokenizer))
    models._roles["target"] = random_qwen(tokenizer, seed=1)
    return models


def loss_of(method, student, teacher, batch):
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    return (method.loss(scores, batch) * method.weigh(batch)).sum()


def rows_drawn(method, models, task, seed=0):
    batch = method.rollout(task.train, models, task, seed)
    return batch, [i[o].tolist() for i, o in zip(batch.ids, batch.own, strict=True)]


def test_total_variation_is_one_minus_the_chance_that_a_proposal_stands(pair):
    """Value and gradient, the mean over the tokens of a row and then over rows."""
    batch, draft, target = pair
    p, q = draft.log_softmax(-1), target.log_softmax(-1).detach()
    stands = acceptance(q, p)
    expected = 1 - (stands[:3].mean() + stands[3:].mean()) / 2
    found = loss_of(distillspec(divergence="tv"), draft, target, batch)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    one, two = (torch.autograd.grad(each, draft)[0] for each in (found, expected))
    assert one.abs().max() > 0.01
    assert torch.allclose(one, two, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_opsd_whose_teacher_is_told_nothing(divergence, roles):
    task, options = toy_task(), {"n": 2, "length": 4, "divergence": divergence, "temperature": 1.3}
    one = distillspec(teacher="target", normalise="token", **options)
    two = opsd(teacher="target", context="none", **options)
    values = []
    for method in (one, two):
        batch = method.credit(method.rollout(task.train, roles, task, 0), roles)
        scores = {n: roles.score(v, batch) for n, v in method.views(batch, roles).items()}
        values.append((method.loss(scores, batch) * method.weigh(batch)).detach())
    assert values[0].sum() > 1e-3
    assert torch.allclose(*values, rtol=1e-9, atol=1e-12)


def test_the_target_writes_what_it_would_write_as_a_policy(roles):
    task = toy_task()
    batch, found = rows_drawn(
        distillspec(n=2, length=6, teacher="target", source="target", top_k=9), roles, task
    )
    alone = Models(roles["target"])
    expected = Sample(2, 6, Law(top_k=9))(task.train, alone, task, 0)
    assert found == [i[o].tolist() for i, o in zip(expected.ids, expected.own, strict=True)]
    assert torch.equal(batch.take("logp"), expected.take("logp"))
    assert torch.equal(batch.take("support"), expected.take("support"))
    assert "raw" not in batch.streams, "the rows are not the policy's"
    assert roles.ledger.generated == alone.ledger.generated == int(batch.own.sum())


def test_in_a_mixture_every_problem_is_written_by_one_of_the_two(roles):
    task, options = toy_task(40), {"n": 2, "length": 6, "teacher": "target"}
    _, found = rows_drawn(distillspec(source="mixture", share=0.3, **options), roles, task)
    sides = {
        source: rows_drawn(distillspec(source=source, **options), roles, task)[1]
        for source in ("draft", "target")
    }
    pairs = {name: list(zip(rows[::2], rows[1::2], strict=True)) for name, rows in sides.items()}
    mixed = list(zip(found[::2], found[1::2], strict=True))
    who = [
        "draft" if each == own else "target"
        for each, own in zip(mixed, pairs["draft"], strict=True)
    ]
    assert all(
        each == pairs[name][i] for i, (each, name) in enumerate(zip(mixed, who, strict=True))
    )
    assert 4 <= who.count("draft") <= 20, "12 on average"
    for share, source in ((0.0, "target"), (1.0, "draft")):
        rollout = FromRole(2, 6, Law(), "target", share)
        batch = rollout(task.train, roles, task, 0)
        assert [i[o].tolist() for i, o in zip(batch.ids, batch.own, strict=True)] == sides[source]


def test_given_text_is_judged_at_the_temperature_of_decoding(qwen):
    method, models, task = (
        distillspec(source="given", teacher="initial", temperature=0.7),
        Models(qwen),
        toy_task(),
    )
    batch, found = rows_drawn(method, models, task)
    assert found == [qwen.encode(problem.solution) for problem in task.train]
    assert method.needs == ("solution",)
    batch = method.credit(batch, models)
    views = method.views(batch, models)
    perturb(models.policy)
    scores = {name: models.score(view, batch) for name, view in views.items()}
    assert {each.temperature for each in scores.values()} == {0.7}
    assert method.loss(scores, batch)[batch.own].min() > 0


def test_a_target_that_the_draft_has_become_teaches_nothing(qwen):
    models, task = Models(qwen), toy_task()
    for divergence in ("forward", "reverse", "jsd"):
        method = distillspec(length=5, teacher="initial", divergence=divergence)
        batch = method.rollout(task.train, models, task, 0)
        scores = {n: models.score(v, batch) for n, v in method.views(batch, models).items()}
        assert float(method.loss(scores, batch).detach().abs().max()) < 1e-14


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "targt"}, "did you mean 'target'"),
        ({"divergence": "tvd"}, "did you mean 'tv'"),
        ({"source": "mixture", "share": 1.5}, "share=1.5"),
        ({"source": "target", "teacher": "1.5*tiny - 0.5*initial"}, "nothing can be drawn"),
        ({"source": "target", "correct": "token"}, "only tokens that the draft drew"),
        ({"correct": "token", "cap": 0.5}, "cap=0.5"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        distillspec(**arguments)


def test_old_tokens_are_allowed_where_the_loss_knows_them():
    stale = [distillspec(source=s).stale for s in ("draft", "target", "mixture", "given")]
    assert stale == [False, True, False, True]
    assert distillspec(correct="token").stale
