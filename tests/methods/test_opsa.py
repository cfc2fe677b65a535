"""opsa: which tokens are chosen, what they are worth, and that the others have no gradient."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.methods.opsa import opsa
from toys import about, random_logits, rows_of


class Reader:
    """A model whose laws are given."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def score(self, view, batch):
        return about(batch, self.logits)


def credited(method, batch, logits):
    raw = about(batch, logits).logp.detach()
    return method.credit(batch.put(raw=raw), Reader(logits.detach()))


def gradient(method, batch, logits):
    loss = (method.loss({"policy": about(batch, logits)}, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, logits)[0]


def test_the_least_likely_tokens_of_the_batch_are_unlearnt_by_their_entropy():
    """Ten tokens in rows of different lengths, of which three are chosen, all by hand."""
    batch, logits = rows_of([5, 1, 4]), random_logits(10, 3, size=1.5)
    method = opsa(share=0.3, a_min=-2.0, a_max=-0.25)
    batch = credited(method, batch, logits)
    p, words = logits.softmax(-1).detach(), batch.ids[batch.own]
    chosen = p[range(10), words].argsort()[:3].tolist()
    entropy = -(p * p.log()).sum(-1)
    sure, unsure = (f(entropy[chosen].tolist()) for f in (min, max))
    expected = torch.zeros(10, 3, dtype=torch.float64)
    for i in chosen:
        worth = -0.25 + (-2.0 + 0.25) * (float(entropy[i]) - sure) / (unsure - sure)
        onehot = torch.nn.functional.one_hot(words[i], 3)
        expected[i] = -worth * (onehot - p[i]) / 3
    assert torch.allclose(gradient(method, batch, logits), expected, rtol=1e-6, atol=1e-9)
    worth = batch.take("advantage")[batch.take("chosen")]
    assert worth.min() == -2 and worth.max() == -0.25


def test_tokens_that_are_not_chosen_have_no_gradient_at_all():
    batch, logits = rows_of([7, 3]), random_logits(10, 3)
    method = opsa()
    batch = credited(method, batch, logits)
    found, chosen = gradient(method, batch, logits), batch.take("chosen")[batch.own]
    assert int(chosen.sum()) == 2 and not found[~chosen].any() and (found[chosen] != 0).all()
    assert float(method.weigh(batch).sum()) == pytest.approx(1)


def test_ties_are_chosen_together_and_equal_entropies_are_worth_the_least():
    """The words of the toy rows go round: with one law for all, three of nine tokens tie."""
    batch = rows_of([9])
    logits = torch.tensor([[0.0, 2.0, -1.0]], dtype=torch.float64).repeat(9, 1).requires_grad_()
    method = opsa(share=0.1)
    batch = credited(method, batch, logits)
    chosen = batch.take("chosen")
    assert batch.ids[chosen].tolist() == [2, 2, 2]
    assert batch.take("advantage")[chosen].tolist() == [-1.0] * 3
    assert method.weigh(batch)[chosen].tolist() == pytest.approx([1 / 3] * 3)


def test_a_batch_without_own_tokens_has_nothing_to_choose():
    batch = rows_of([0, 0], prompt=2)
    logits = torch.zeros(0, 3, dtype=torch.float64)
    batch = credited(opsa(), batch, logits)
    assert not batch.take("chosen").any() and not batch.take("advantage").any()
    assert not opsa().weigh(batch).any()


def test_with_equal_bounds_it_is_unlikelihood_or_likelihood():
    batch, logits = rows_of([6]), random_logits(6, 3)
    p, onehot = logits.softmax(-1).detach(), torch.nn.functional.one_hot(batch.ids[batch.own], 3)
    for worth in (-0.5, 0.2):
        method = opsa(share=1.0, a_min=worth, a_max=worth)
        found = gradient(method, credited(method, batch, logits), logits)
        assert torch.allclose(found, -worth * (onehot - p) / 6, rtol=1e-6, atol=1e-9)


def test_tokens_that_older_weights_drew_are_weighed():
    batch, logits = rows_of([4]), random_logits(4, 3)
    method, plain = opsa(share=1.0, correct="token", cap=1.5), opsa(share=1.0)
    batch = credited(method, batch, logits)
    gap = torch.tensor([0.1, 3.0, -1.0, math.log(1.5)], dtype=torch.float64)
    old = batch.take("raw").masked_scatter(batch.own, batch.take("raw")[batch.own] - gap)
    found = gradient(method, batch.put(raw=old), logits)
    expected = gradient(plain, batch, logits) * gap.exp().clamp(max=1.5)[:, None]
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert method.stale and not plain.stale


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 0.0}, "share=0.0"),
        ({"share": 1.5}, "share=1.5"),
        ({"a_min": 0.0}, "must not be above"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        opsa(**arguments)
