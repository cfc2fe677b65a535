"""sdpo: siblings and feedback for a teacher, and the mix with the advantages of grpo."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.grade import grade
from autodidact.methods.grpo import grpo
from autodidact.methods.sdpo import sdpo
from autodidact.models import Models
from toys import about, perturb, random_logits, rows_of, toy_task


def judged(method, models, batch):
    """(values [B, T], weights, gradient in the policy's weights) of a batch that is credited."""
    with torch.no_grad():
        batch = method.credit(batch, models)
        weight = method.weigh(batch)
    scores = models.scores(method.views(batch, models), batch)
    values = method.loss(scores, batch)
    weights = [w for w in models.policy.model.parameters() if w.requires_grad]
    found = torch.autograd.grad((values * weight).sum(), weights, allow_unused=True)
    return values.detach(), weight, torch.cat([g.flatten() for g in found if g is not None])


def drawn(method, models, task):
    return grade(method.rollout(task.train, models, task, 0), models)


@pytest.mark.parametrize("mix", [0.0, 0.9])
def test_without_a_success_and_without_feedback_nothing_is_learnt(qwen, mix):
    models = Models(qwen)
    task = replace(toy_task(2), reward=lambda problems, texts: [0.4] * len(texts))
    method = sdpo(n=3, length=4, mix=mix)
    batch = drawn(method, models, task)
    for view in method.views(batch, models).values():
        models[view.role]
    perturb(models.policy, 0.1)
    values, weight, gradient = judged(method, models, batch)
    assert float((values * weight).abs().max()) == 0 and not gradient.any()
    talks = replace(batch, task=replace(task, feedback=lambda problem, text: "no"))
    assert judged(method, models, talks)[2].abs().max() > 1e-4


@pytest.mark.parametrize("divergence", ["jsd", "reverse", "forward"])
def test_all_words_but_one_and_a_tail_are_the_whole_vocabulary(divergence):
    batch = rows_of([3, 2], told=[1.0, 1.0])
    student, teacher = random_logits(5, 3, size=2.0), random_logits(5, 3, seed=1, size=2.0)
    found = []
    for options in ({"k": 2}, {"support": "full"}):
        method = sdpo(divergence=divergence, correct=None, **options)
        scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
        loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
        found.append((float(loss.detach()), torch.autograd.grad(loss, student)[0]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


def test_by_default_it_is_the_jsd_times_the_ratio_to_the_sampler_cut_at_two():
    batch = rows_of([3, 2], told=[1.0, 1.0])
    student, teacher = random_logits(5, 3, size=2.0), random_logits(5, 3, seed=1, size=2.0)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    gap = torch.tensor([0.1, 2.0, -1.0, 0.5, 0.9], dtype=torch.float64)
    logp = scores["policy"].logp[batch.own].detach()
    raw = torch.zeros(batch.own.shape, dtype=torch.float64).masked_scatter(batch.own, logp - gap)
    values = sdpo(k=2).loss(scores, batch.put(raw=raw))[batch.own]
    p, q = student.softmax(-1), teacher.softmax(-1)
    middle = (p + q) / 2
    jsd = (p * (p / middle).log() + q * (q / middle).log()).sum(-1) / 2
    assert torch.allclose(values, jsd * gap.exp().clamp(max=2), rtol=1e-9)


def test_the_whole_mix_is_grpo_with_a_mean_over_tokens(qwen):
    models, task = Models(qwen), toy_task(3)
    ours = sdpo(n=4, length=4, mix=1.0, cap=1.1)
    theirs = grpo(n=4, length=4, normalise="token", correct="token", cap=1.1)
    batch = drawn(ours, models, task)
    for view in ours.views(batch, models).values():
        models[view.role]
    perturb(models.policy, 0.1)
    found, expected = judged(ours, models, batch), judged(theirs, models, batch)
    assert all(torch.equal(one, two) for one, two in zip(found[:2], expected[:2], strict=True))
    assert torch.allclose(found[2], expected[2], rtol=1e-9, atol=1e-12)
    assert expected[2].abs().max() > 1e-3


def test_a_mix_is_the_policy_gradient_of_both_advantages_and_of_told_rows_only():
    batch = rows_of([2, 1, 2], [1.0, 0.0, 0.5], told=[1.0, 0.0, 1.0])
    student, teacher = random_logits(5, 3), random_logits(5, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    worth = torch.tensor([0.7, 0.7, -0.9, 0.2, 0.2], dtype=torch.float64)
    empty = torch.zeros(batch.own.shape, dtype=torch.float64)
    batch = batch.put(advantage=empty.masked_scatter(batch.own, worth), raw=scores["policy"].logp)
    method = sdpo(mix=0.3, correct=None)
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    found = torch.autograd.grad(loss, student)[0]
    words = torch.nn.functional.one_hot(batch.ids[batch.own], 3)
    p, q = student.softmax(-1).detach(), teacher.softmax(-1).detach()
    said = ((q / p).log() * words).sum(-1) * torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    expected = -(0.3 * worth + 0.7 * said)[:, None] * (words - p) / 5
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_part_of_the_teacher_in_a_mix_is_the_reverse_divergence_by_enumeration():
    """Three rows of one token, one for each word; weighed by p they are the expectation."""
    batch = rows_of([1, 1, 1], told=[1.0, 1.0, 1.0])
    one, other = random_logits(1, 3), random_logits(1, 3, seed=1)
    scores = {
        name: about(batch, x.expand(3, 3)) for name, x in (("policy", one), ("teacher", other))
    }
    batch = batch.put(advantage=torch.zeros_like(scores["policy"].logp), raw=scores["policy"].logp)
    assert sorted(batch.ids[batch.own].tolist()) == [0, 1, 2]
    values = sdpo(mix=0.5, correct=None).loss(scores, batch)[batch.own]
    p = one.softmax(-1)[0]
    share = p.detach()[batch.ids[batch.own]]
    found = torch.autograd.grad((share * values).sum(), one, retain_graph=True)[0]
    reverse = (p * (p.log() - other.detach().log_softmax(-1)[0])).sum()
    expected = torch.autograd.grad(reverse, one)[0]
    assert torch.allclose(2 * found, expected, rtol=1e-9, atol=1e-12)


def test_every_told_token_counts_alike(qwen):
    models = Models(qwen)
    task = replace(toy_task(3), reward=lambda rows, texts: [float(p.answer == "2") for p in rows])
    method = sdpo(n=3, length=4)
    batch = method.credit(drawn(method, models, task), models)
    told = batch.own & (batch.take("told")[:, None] > 0)
    assert 0 < int(told.sum()) < int(batch.own.sum())
    assert torch.allclose(method.weigh(batch), told / told.sum())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mix": 1.5}, "mix=1.5"),
        ({"support": "sampled"}, "take 'policy_gradient'"),
        ({"correct": "tokens"}, "did you mean 'token'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        sdpo(**arguments)
