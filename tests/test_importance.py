"""Importance weights: by enumeration, by hand, at equal laws; renormalised words; the mismatch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.divergence import Divergence
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.learn import learn
from autodidact.losses.divergence import Estimator, distill
from autodidact.losses.importance import Correction, both_laws, corrected
from autodidact.losses.policy import clipped, nll
from autodidact.methods.dapo import dapo
from autodidact.methods.dr_grpo import dr_grpo
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.methods.opsd_paper import opsd_paper
from autodidact.methods.rft import rft
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain
from toys import about, laws, perturb, random_logits, random_qwen, rows_of, toy_task

KINDS = ("token", "sequence", "mask")
LENGTHS = [4, 1, 3]


def own_values(batch, values):
    """Row by row the values of the own tokens."""
    return [row[own].tolist() for row, own in zip(values, batch.own, strict=True)]


@pytest.fixture
def moved():
    """(batch with the laws of the sampler, logits of the trainer): the two differ."""
    batch, logits = rows_of(LENGTHS, [1.0, 0.0, 0.5]), random_logits(8, 3)
    sampler = about(batch, random_logits(8, 3, seed=1)).logp.detach()
    return batch.put(raw=sampler, logp=sampler), logits


# ------------------------------------------------------------------ the weights


def test_the_weights_and_their_caps_by_hand():
    batch = rows_of([3, 2])
    ratios = [[1.5, 0.3, 4.0], [0.9, 1.1]]
    then = torch.zeros(batch.ids.shape, dtype=torch.float64)
    now = torch.full_like(then, 7.0).masked_scatter(
        batch.own, torch.tensor([math.log(r) for row in ratios for r in row]).double()
    )
    expected = {
        "token": [[1.5, 0.3, 2.0], [0.9, 1.1]],
        "sequence": [[1.8] * 3, [0.99] * 2],
        "mask": [[1.5, 0.0, 0.0], [0.9, 1.1]],
    }
    for kind, rows in expected.items():
        found = Correction(kind, 2.0).weights(now, then, batch.own)
        assert not found[~batch.own].any()
        for values, wanted in zip(own_values(batch, found), rows, strict=True):
            assert values == pytest.approx(wanted, rel=1e-6)
    cut = Correction("sequence", 1.7).weights(now, then, batch.own)
    assert cut[0].max() == 1.7


def test_the_weight_of_a_row_is_the_product_of_those_of_its_tokens(moved):
    batch, logits = moved
    now, then = both_laws(about(batch, logits), batch)
    one, whole = (
        Correction(kind, math.inf).weights(now, then, batch.own) for kind in ("token", "sequence")
    )
    for each, row in zip(own_values(batch, one), own_values(batch, whole), strict=True):
        assert row == pytest.approx([math.prod(each)] * len(each), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_means_under_the_sampler_are_those_of_the_policy_where_nothing_is_cut(kind):
    """Every row of two tokens over three words, and a value f of it, by enumeration."""
    first = random_logits(2, 3, seed=1, size=0.4).detach().log_softmax(-1)
    second = random_logits(2, 3, 3, seed=2, size=0.4).detach().log_softmax(-1)
    f = random_logits(3, 3, seed=3).detach()
    paths = [(a, b) for a in range(3) for b in range(3)]
    pi, mu = (torch.stack([torch.stack([first[k][a], second[k][a][b]]) for a, b in paths])
              for k in range(2))  # fmt: skip
    own = torch.ones(9, 2, dtype=torch.bool)
    weight = Correction(kind, math.inf).weights(pi, mu, own)
    value = torch.stack([f[a, b] for a, b in paths])
    drawn = mu.sum(1).exp()
    if kind == "sequence":
        expected = (pi.sum(1).exp() * value).sum()
        assert float((drawn * weight[:, 0] * value).sum()) == pytest.approx(float(expected))
        assert torch.equal(weight[:, 0], weight[:, 1])
    else:
        # Of the second token; the first stays the sampler's.
        expected = (mu[:, 0].exp() * pi[:, 1].exp() * value).sum()
        assert float((drawn * weight[:, 1] * value).sum()) == pytest.approx(float(expected))
    biased = Correction(kind, 1.05).weights(pi, mu, own)
    assert (biased <= 1.05 + 1e-12).all() and not torch.allclose(biased, weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained", [False, True])
def test_at_equal_laws_nothing_changes_bit_for_bit(kind, trained):
    batch, logits = rows_of(LENGTHS), random_logits(8, 3)
    scores = about(batch, logits)
    weight = torch.full((8,), 1 / 8, dtype=torch.float64)
    if trained:
        logits = scores.head.weight.requires_grad_()
    scores = replace(scores, weight=weight)
    batch = batch.put(raw=scores.logp.detach())
    teacher = about(batch, random_logits(8, 3, seed=1))

    def judged(scores, batch):
        return distill(scores["policy"], teacher, batch, Estimator(Divergence("reverse")))

    for loss in (nll, judged):
        plainly, weighed = (
            each({"policy": scores}, batch) for each in (loss, corrected(loss, kind, 2.0))
        )
        assert torch.equal(plainly, weighed)
        one, two = (torch.autograd.grad(each.sum() / 8, logits)[0] for each in (plainly, weighed))
        assert torch.equal(one, two) and one.any()


def test_without_a_kind_the_loss_is_the_loss():
    assert corrected(nll, None, 2.0) is nll


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrected_loss_is_weighted_and_its_weights_are_constants(moved, kind):
    batch, logits = moved
    scores = {"policy": about(batch, logits)}
    gap = (scores["policy"].logp - batch.take("raw")).detach()
    weight = Correction(kind, 1.5).weights(gap, torch.zeros_like(gap), batch.own)
    found = corrected(nll, kind, 1.5)(scores, batch)
    assert torch.allclose(found, weight * scores["policy"].nll, rtol=1e-12)
    expected = torch.autograd.grad((weight * scores["policy"].nll).sum(), logits)[0]
    assert torch.allclose(torch.autograd.grad(found.sum(), logits)[0], expected, rtol=1e-10)


def test_wrong_corrections_are_refused_by_name():
    with pytest.raises(ValueError, match=r"correct 'tokens' is unknown.*did you mean 'token'"):
        grpo(correct="tokens")
    with pytest.raises(ValueError, match=r"cap=0\.5 is not allowed"):
        opsd(correct="token", cap=0.5)
    with pytest.raises(ValueError, match=r"ratio_clip=2\.0 and correct='token' weigh tokens twice"):
        opsd(correct="token", ratio_clip=2.0)


# ------------------------------------------------------------------ words that were left


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("trained", [False, True])
def test_renormalised_words_are_the_log_softmax_over_them(temperature, trained):
    batch, logits = rows_of(LENGTHS), random_logits(8, 5, size=2.0)
    scores = about(batch, logits, temperature)
    if trained:
        scores.head.weight.requires_grad_()
    lists = [[t, *((t + 1 + i) % 5 for i in range(n % 5))] for n, t in
             enumerate(scores.targets.tolist())]  # fmt: skip
    words = torch.full((*batch.ids.shape, 6), -1)
    words[batch.own] = torch.tensor([(each[::-1] + [-1] * 6)[:6] for each in lists])
    found = scores.within(words)
    assert not found[~batch.own].any() and torch.equal(found[0, 1], torch.zeros(()).double())
    pull = random_logits(8, seed=4).detach()
    sources = (logits, scores.head.weight) if trained else (logits,)
    grads = torch.autograd.grad((found[batch.own] * pull).sum(), sources)
    law = logits @ scores.head.weight.T / temperature
    expected = torch.stack([law[n][each].log_softmax(-1)[0] for n, each in enumerate(lists)])
    assert torch.allclose(found[batch.own], expected, rtol=1e-10, atol=1e-14)
    wanted = torch.autograd.grad((expected * pull).sum(), sources)
    for one, two in zip(grads, wanted, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    assert torch.allclose(scores.notes["logp"], scores.logp, rtol=1e-12)


def test_a_token_outside_the_words_is_an_error_of_the_program():
    with pytest.raises(AssertionError, match="one of the words"):
        laws(random_logits(2, 3), [0, 1]).within(torch.tensor([[[0, 1], [0, 2]]]))


def test_over_the_words_left_the_ratio_at_the_start_is_one_and_mixed_it_is_their_mass(qwen):
    """The mean of p / mu with p over the whole vocabulary is the mass that was kept."""
    models, law = Models(qwen), Law(top_p=0.8)
    batch = Sample(6, 8, law)(toy_task(8).train, models, toy_task(8), 3)
    with torch.no_grad():
        scores = models.score(plain(batch), batch)
        now, then = both_laws(scores, batch)
    assert torch.allclose(now, then.double(), atol=1e-5)
    words = batch.take("support")[batch.own]
    size = (words >= 0).sum(1)
    assert size.max() > 1, "some choice was left"
    mixed = (scores.logp - then)[batch.own].exp()
    kept = (batch.take("raw") - batch.take("logp"))[batch.own].exp()
    assert torch.allclose(mixed, kept.double(), rtol=1e-5)
    assert float(kept.min()) >= 0.8 and float(mixed.mean()) < 0.95


def test_grpo_with_truncated_sampling_starts_at_ratio_one(qwen):
    models, task = Models(qwen), toy_task(8)
    method = grpo(n=4, length=6, top_k=6, clip=1e-4, kl=0.0)
    batch = grade(method.rollout(task.train, models, task, 3), models)
    batch = method.credit(batch, models)
    views = method.views(batch, models)
    scores = models.scores(views, batch)
    values = method.loss(scores, batch)
    # A clip of 1e-4 would show: the mass that is kept is far from 1.
    assert torch.allclose(values, -batch.take("advantage").double(), atol=1e-4)
    values.sum().backward()
    found = [p.grad.clone() for p in qwen.model.parameters()]
    qwen.model.zero_grad()
    within = models.scores(views, batch)["policy"].within(batch.take("support"))
    (-batch.take("advantage") * within).sum().backward()
    for one, p in zip(found, qwen.model.parameters(), strict=True):
        assert torch.allclose(one, p.grad, rtol=1e-3, atol=1e-6)


def test_the_kl_term_is_over_the_whole_vocabulary():
    batch, logits = rows_of([2, 2], [1.0, 0.0]), random_logits(4, 3)
    policy, reference = about(batch, logits), about(batch, random_logits(4, 3, seed=1))
    scores = {"policy": policy, "reference": reference}
    support = torch.full((*batch.ids.shape, 1), -1)
    support[batch.own] = batch.ids[batch.own][:, None]
    zero = torch.zeros(batch.ids.shape, dtype=torch.float64)
    batch = batch.put(support=support, logp=zero, raw=policy.logp.detach())
    batch = grpo(n=2).credit(batch, None)
    one, two = (grpo(n=2, kl=kl).loss(scores, batch) for kl in (0.5, 0.0))
    gap = reference.logp - policy.logp
    assert torch.allclose(one - two, 0.5 * (gap.exp() - gap - 1), rtol=1e-10, atol=1e-14)
    assert torch.allclose(two, -batch.take("advantage")), "of one word the ratio is 1"


# ------------------------------------------------------------------ grpo


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_grpo_is_the_ratio_to_the_trainer_times_the_weight(moved, kind):
    batch, logits = moved
    method = grpo(n=3, correct=kind, cap=2.0)
    batch = method.credit(batch, None)
    found = method.loss({"policy": about(batch, logits)}, batch)
    logp = about(batch, logits).logp
    ratio = (logp - batch.take("raw")).detach().exp()
    if kind == "sequence":
        rows = [math.prod(row) for row in own_values(batch, ratio)]
        weight = torch.tensor(rows)[:, None].clamp(max=2.0)
    else:
        weight = ratio.clamp(max=2.0)
        if kind == "mask":
            weight = ratio * (ratio <= 2.0) * (ratio >= 1 / 2.0)
    assert (ratio[batch.own] > 2.0).any() and (ratio[batch.own] < 1 / 2.0).any()
    expected = -(batch.take("advantage") * weight * logp).sum()
    one, two = (torch.autograd.grad(each, logits)[0] for each in (found.sum(), expected))
    assert torch.allclose(one, two, rtol=1e-6, atol=1e-9) and one.any()


def test_a_second_epoch_keeps_the_trainers_law_of_the_first(tokenizer):
    models, task = Models(random_qwen(tokenizer)), toy_task(4)
    method = grpo(n=2, length=5, epochs=2, correct="token", cap=1.05)
    batch = grade(method.rollout(task.train, models, task, 3), models)
    perturb(models.policy)
    read = models.ledger.teacher_forward
    with torch.no_grad():
        batch = method.credit(batch, models)
        old = models.score(plain(batch), batch).logp
    assert models.ledger.teacher_forward > read, "the pass is counted"
    assert torch.allclose(batch.take("old"), old, rtol=1e-10)
    perturb(models.policy, seed=2)
    scores = {"policy": models.score(plain(batch), batch)}
    weight = Correction("token", 1.05).weights(old, batch.take("raw"), batch.own)
    value = clipped(scores["policy"].logp, old, batch.take("advantage"), 0.2, 0.2)
    assert torch.allclose(method.loss(scores, batch), weight * value, rtol=1e-8, atol=1e-12)


CASES = [
    lambda kind: grpo(n=3, length=5, correct=kind, cap=1.2),
    lambda kind: grpo(n=3, length=5, correct=kind, cap=1.2, top_k=6, epochs=2, kl=0.1),
    lambda kind: dr_grpo(n=3, length=5, correct=kind, cap=1.2),
    lambda kind: dapo(n=3, length=5, correct=kind, cap=1.2, waves=1),
    lambda kind: opsd(n=2, length=5, correct=kind, cap=1.2),
    lambda kind: opsd(n=2, length=5, correct=kind, cap=1.2, top_p=0.9),
    lambda kind: opsd_paper(length=5, correct=kind, cap=1.2),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_micro_batches_and_order_do_not_matter(case, tokenizer):
    method = replace(CASES[case](KINDS[case % 3]), epochs=1)
    models, task = Models(random_qwen(tokenizer)), toy_task(4)
    batch = grade(method.rollout(task.train, models, task, 3), models)
    for view in method.views(batch, models).values():
        models[view.role]
    perturb(models.policy, 0.05)

    def gradient(batch, rows=None):
        kept = []

        class Tap(torch.optim.SGD):
            def step(self, closure=None):
                kept.extend(p.grad.flatten() for p in self.param_groups[0]["params"])

        tap = Tap(models.policy.model.parameters(), lr=1.0)
        learn(method, models, batch, tap, Run(steps=1, rows=len(batch), micro_rows=rows))
        return torch.cat(kept)

    whole = gradient(batch)
    assert whole.any()
    order = list(range(len(batch)))[::-1]
    for other in (gradient(batch, 2), gradient(batch.select(order))):
        assert float((other - whole).norm() / whole.norm()) < 1e-9
    plainly = CASES[case](None)
    method = replace(plainly, epochs=1)
    assert float((gradient(batch) - whole).norm() / whole.norm()) > 1e-4, "the weights count"


# ------------------------------------------------------------------ what is measured


METHODS = [
    grpo(n=2, length=5), grpo(n=2, length=5, top_k=5, temperature=0.8), rft(n=2, length=5, least=0),
    opsd(length=5), opsd(length=5, top_p=0.7), opsd_paper(length=5, correct="mask"),
    dapo(n=2, length=5, waves=1, epochs=2, correct="token"),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_step_says_how_far_the_trainer_is_from_the_sampler(method, qwen):
    training = Training(method, Models(qwen), toy_task(8), Run(steps=2, rows=8, lr=1e-2))
    for _ in range(2):
        _, line = training.advance()
        assert line["mismatch_mean"] <= line["mismatch_max"] < 2e-5, "before the first update"
        assert line["ess"] == pytest.approx(1.0, abs=1e-8)
        assert line["staleness"] == 0


def test_the_mismatch_and_the_sample_size_by_hand(tokenizer):
    models, task = Models(random_qwen(tokenizer)), toy_task(4)
    method = opsd(n=2, length=5, top_k=8)
    batch = method.rollout(task.train, models, task, 3)
    models["initial"]
    perturb(models.policy, 0.05)
    sgd = torch.optim.SGD(models.policy.model.parameters(), lr=0.0)
    found = learn(method, models, batch, sgd, Run(steps=1, rows=8, micro_rows=3))
    gap = (models.score(plain(batch), batch).logp - batch.take("raw"))[batch.own].detach()
    assert found["mismatch_max"] == pytest.approx(float(gap.abs().max()), rel=1e-6)
    assert found["mismatch_mean"] == pytest.approx(float(gap.abs().mean()), rel=1e-6)
    weight = gap.exp()
    size = float(weight.sum() ** 2 / (weight**2).sum() / len(weight))
    assert found["ess"] == pytest.approx(size, rel=1e-6) and size < 0.999
