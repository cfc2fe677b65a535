"""on_policy_distillation: the reverse divergence as a policy gradient, by enumeration."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.on_policy_distillation import on_policy_distillation
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from methods.test_minillm import (
    all_texts,
    expected_gradient,
    gradient_of_whole_texts,
    two_steps,
)
from toys import about, perturb, random_logits, rows_of, toy_task


def test_with_the_whole_return_it_is_the_gradient_of_whole_texts():
    law, peer = two_steps(0), two_steps(1)
    found = expected_gradient(on_policy_distillation(discount=1.0), law, peer)
    for one, other in zip(found, gradient_of_whole_texts(law, peer), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_on_average_it_is_the_reverse_divergence_whoever_sampled():
    """One token: sum_y mu(y) grad loss(y) = grad KL(p||q), for any mu."""
    logits, teacher = random_logits(3), random_logits(3, seed=1)
    sampler = random_logits(3, seed=2).log_softmax(-1).detach()
    batch = rows_of([1, 1, 1])
    words = batch.ids[batch.own]
    assert sorted(words.tolist()) == [0, 1, 2]
    batch = batch.put(raw=torch.zeros(3, 2).double().masked_scatter(batch.own, sampler[words]))
    scores = {
        "policy": about(batch, logits.expand(3, 3)), "teacher": about(batch, teacher.expand(3, 3))
    }  # fmt: skip
    values = on_policy_distillation().loss(scores, batch)[batch.own]
    chance = sampler.exp()[words]
    p, q = logits.log_softmax(-1), teacher.log_softmax(-1).detach()
    exact = (p.exp() * (p - q)).sum()
    mean = (chance * values).sum()
    assert torch.allclose(mean, exact, rtol=1e-9)
    found = torch.autograd.grad(mean, logits)[0]
    assert torch.allclose(found, torch.autograd.grad(exact, logits)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("discount", [0.0, 0.5])
def test_it_is_opsd_with_a_ratio_at_the_sampled_token(discount):
    batch, scores, _ = all_texts(two_steps(0), two_steps(1))
    logits = scores["policy"].hidden
    batch = batch.put(logp=batch.take("logp") + 0.3, raw=batch.take("raw") + 0.3)
    other = opsd(
        divergence="reverse", support="sampled", estimator="policy_gradient", discount=discount,
        ratio_clip=1e9, context="none",
    )  # fmt: skip
    one, two = (
        torch.autograd.grad(method.loss(scores, batch).sum(), logits, retain_graph=True)[0]
        for method in (on_policy_distillation(discount=discount), other)
    )
    assert torch.allclose(one, two, rtol=1e-9, atol=1e-12) and one.abs().max() > 1e-2


def test_all_three_laws_are_those_of_the_words_that_were_left(qwen):
    method = on_policy_distillation(length=4, top_k=5, context="solution")
    models, task = Models(qwen), toy_task()
    batch = method.credit(method.rollout(task.train, models, task, 0), models)
    views = method.views(batch, models)
    perturb(models.policy, 0.05)
    scores = {name: models.score(view, batch) for name, view in views.items()}
    now, said = (scores[name].within(batch.take("support")) for name in ("policy", "teacher"))
    expected = (now - batch.take("logp")).exp() * (now - said)
    found = method.loss(scores, batch)
    assert torch.allclose(found[batch.own], expected[batch.own], rtol=1e-9)
    assert found[batch.own].abs().max() > 1e-3


def test_a_discount_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"discount=1\.5"):
        on_policy_distillation(discount=1.5)
