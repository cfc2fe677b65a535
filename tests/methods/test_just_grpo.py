"""just_grpo: what it reads is the law that wrote the text, and the rest is grpo."""

from __future__ import annotations

import itertools

import pytest
import torch

from autodidact.batch import Batch
from autodidact.grade import grade
from autodidact.losses.likelihood import Likelihood
from autodidact.methods.grpo import grpo
from autodidact.methods.just_grpo import just_grpo
from autodidact.models import Models
from autodidact.problem import Problem
from toys import about, random_logits, random_masked, rows_of, toy_task


def test_what_it_reads_is_what_the_rollout_drew_from(tokenizer):
    models, task = Models(random_masked(tokenizer)), toy_task(4)
    method = just_grpo(n=3, length=6, epochs=2, temperature=0.8)
    batch = grade(method.rollout(task.train, models, task, 5), models)
    found = method.credit(batch, models).take("before")
    own = batch.own
    assert torch.allclose(found[own], batch.take("raw")[own].double(), atol=1e-5)
    order = batch.take("order")
    for row in range(len(batch)):
        places = order[row][order[row] > 0]
        assert places.tolist() == list(range(1, 7)), "from left to right, one at a step"


def test_the_likelihood_of_all_texts_adds_up_to_one(tokenizer):
    """p(y) = prod_t p(y_t | q, y_<t, the rest hidden), over all texts of two of six words."""
    words = 6
    models = Models(random_masked(tokenizer, vocab_size=words))
    texts = torch.tensor([[1, *pair] for pair in itertools.product(range(words), repeat=2)])
    own = torch.tensor([[False, True, True]]).expand(texts.shape)
    task = toy_task()
    batch = Batch(
        texts, torch.ones_like(own), own, torch.arange(len(texts)),
        tuple(Problem(str(i)) for i in range(len(texts))), task,
    ).put(order=own.double(), canvas=own.double())  # fmt: skip
    exact = Likelihood("left").credit(batch, models).take("before").sum(1)
    assert float(exact.exp().sum()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("kind", ["sequence", "token", "constant"])
def test_given_its_likelihoods_it_is_grpo(kind):
    lengths, rewards = [4, 1, 2], [1.0, 0.0, 0.25]
    logits, old = random_logits(7, 3), random_logits(7, 3, seed=1)
    options = {"n": 3, "length": 9, "clip": 0.1, "normalise": kind}
    ours, theirs = just_grpo(epochs=2, **options), grpo(**options)
    batch = rows_of(lengths, rewards)
    before = about(batch, old).logp.detach()
    batch = theirs.credit(batch.put(before=before, raw=before), None)
    found = []
    for method in (ours, theirs):
        loss = (method.loss({"policy": about(batch, logits)}, batch) * method.weigh(batch)).sum()
        found.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][1].abs().max() > 0


def test_a_single_update_reads_nothing_before(tokenizer):
    """Its ratio is 1 by itself; the gradient is that of reading it."""
    models, task = Models(random_masked(tokenizer)), toy_task(3)
    once, twice = just_grpo(n=3, length=4), just_grpo(n=3, length=4, epochs=2)
    batch = grade(once.rollout(task.train, models, task, 2), models)
    losses = []
    for method in (once, twice):
        credited = method.credit(batch, models)
        assert ("before" in credited.streams) == (method is twice)
        values = method.loss(models.scores(method.views(credited, models), credited), credited)
        losses.append((values * method.weigh(credited)).sum())
    weight = models.policy.model.lm_head.weight
    one, two = (torch.autograd.grad(loss, weight)[0] for loss in losses)
    assert torch.allclose(one, two, rtol=1e-9, atol=1e-14) and one.abs().max() > 0


def test_one_answer_is_no_group():
    with pytest.raises(ValueError, match="n=1"):
        just_grpo(n=1)
