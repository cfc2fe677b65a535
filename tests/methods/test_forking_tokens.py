"""forking_tokens: which tokens learn, and what they are divided by."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.grade import grade
from autodidact.methods.dapo import dapo
from autodidact.methods.forking_tokens import forking_tokens
from autodidact.models import Models
from autodidact.view import plain
from toys import about, padded, random_logits, rows_of, toy_task

LENGTHS = [4, 1, 3, 5]


class Reader:
    """Models whose scores are given, whatever is asked."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def score(self, view, batch):
        assert torch.equal(view.asked, batch.own) and not view.grad
        return about(batch, self.logits.detach())


def case(**arguments):
    """Method, credited batch, its logits, and its scores."""
    logits = random_logits(sum(LENGTHS), 3, size=2.0)
    batch = rows_of(LENGTHS, [1.0, 0.0, 0.5, 0.0])
    scores = about(batch, logits)
    batch = batch.put(raw=scores.logp.detach())
    method = forking_tokens(n=4, waves=1, **arguments)
    return method, method.credit(batch, Reader(logits)), logits, scores


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("choose", ["highest", "lowest", "random"])
def test_a_share_of_all_own_tokens_rounded_up_is_chosen(share, choose):
    _, batch, _, scores = case(share=share, choose=choose)
    chosen, entropy = batch.take("chosen"), scores.entropy.detach()
    assert int(chosen.sum()) == math.ceil(share * sum(LENGTHS) - 1e-9)
    assert not chosen[~batch.own].any(), "padding is never chosen"
    rest = batch.own & ~chosen
    if choose == "highest":
        assert entropy[chosen].min() > entropy[rest].max()
    if choose == "lowest":
        assert entropy[chosen].max() < entropy[rest].min()


@pytest.mark.parametrize("denominator", ["all", "kept"])
def test_the_gradient_is_that_of_dapo_at_the_chosen_tokens_and_zero_elsewhere(denominator):
    share, total = 0.4, sum(LENGTHS)
    method, batch, logits, scores = case(share=share, denominator=denominator)
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    base = dapo(n=4, waves=1)
    plainly = base.credit(batch, None)
    whole = (base.loss({"policy": scores}, plainly) * base.weigh(plainly)).sum()
    expected = torch.autograd.grad(whole, logits)[0] * batch.take("chosen")[batch.own][:, None]
    if denominator == "kept":
        expected = expected * total / math.ceil(share * total)
    # The weights are float32.
    assert torch.allclose(found, expected, rtol=1e-6, atol=0)
    assert found.abs().max() > 1e-3
    assert not found[~batch.take("chosen")[batch.own]].any()


@pytest.mark.parametrize("choose", ["highest", "lowest", "random"])
@pytest.mark.parametrize("denominator", ["all", "kept"])
def test_the_share_of_all_tokens_is_dapo(choose, denominator, qwen):
    task = toy_task(8)
    models = Models(qwen)
    ours = forking_tokens(4, 5, 1.0, choose, denominator, waves=2)
    base, found = dapo(4, 5, waves=2), []
    assert ours.rollout == base.rollout
    for method in (ours, base):
        batch = method.credit(method.rollout(task.train, models, task, 0), models)
        scores = models.scores(method.views(batch, models), batch)
        found.append((method.loss(scores, batch) * method.weigh(batch)).detach())
        found.append(batch.take("advantage"))
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    assert found[1].any()


def test_entropy_is_taken_at_the_temperature_of_sampling(qwen):
    task, models = toy_task(), Models(qwen)
    method = forking_tokens(4, 5, 0.3, temperature=0.5, waves=1)
    batch = grade(method.rollout(task.train, models, task, 0), models)
    assert batch.temperature == 0.5
    chosen = method.credit(batch, models).take("chosen")
    entropy = models.score(plain(batch, grad=False), batch, temperature=0.5).entropy
    other = models.score(plain(batch, grad=False), batch, temperature=1.0).entropy
    count = int(chosen.sum())
    assert entropy[chosen].min() > entropy[batch.own & ~chosen].max()
    warm = other[batch.own].topk(count).values.min()
    assert not torch.equal(chosen, batch.own & (other >= warm)), "temperatures order otherwise"


def test_a_random_choice_is_data():
    _, batch, logits, _ = case(choose="random", share=0.4)
    order = [2, 0, 3, 1]
    method = forking_tokens(n=4, share=0.4, choose="random", waves=1)
    for other, rows in ((batch.select(order), order), (padded(batch), range(4))):
        chosen = method.credit(other, Reader(logits)).take("chosen")
        assert torch.equal(chosen[:, : batch.ids.shape[1]], batch.take("chosen")[list(rows)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 0.0}, r"share=0\.0"),
        ({"share": 1.5}, r"share=1\.5"),
        ({"choose": "higest"}, "did you mean 'highest'"),
        ({"denominator": "keep"}, "did you mean 'kept'"),
        ({"n": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        forking_tokens(**arguments)
