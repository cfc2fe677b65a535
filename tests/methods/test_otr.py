"""otr: the sum over all words, its gradient in closed form, and one drawn word on average."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.otr import otr
from toys import about, random_logits, rows_of


def setting():
    """Two rows of 3 and 2 words, and the logits of a policy."""
    return rows_of([3, 2]), random_logits(5, 3)


def gradient(method, batch, logits):
    loss = (method.loss({"policy": about(batch, logits)}, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, logits)[0]


def by_hand(batch, logits, kappa, beta):
    """-sum_a p'(a) R(a) log p(a) at every word, p' held constant."""
    targets = batch.ids[batch.own]
    reward = torch.full((5, 3), beta, dtype=torch.float64)
    reward[torch.arange(5), targets] = 1.0
    tried = (logits / kappa).softmax(-1).detach()
    return -(tried * reward * logits.log_softmax(-1)).sum(-1)


@pytest.mark.parametrize(("kappa", "beta"), [(1.3, -0.1), (0.7, 0.4), (1.0, -0.1)])
def test_values_and_gradient_are_the_sum_over_all_words(kappa, beta):
    batch, logits = setting()
    method = otr(kappa, beta)
    expected = by_hand(batch, logits, kappa, beta)
    values = method.loss({"policy": about(batch, logits)}, batch)
    assert torch.allclose(values[batch.own], expected, rtol=1e-10, atol=1e-12)
    weight = method.weigh(batch)[batch.own]
    slope = torch.autograd.grad((weight * expected).sum(), logits)[0]
    assert torch.allclose(gradient(method, batch, logits), slope, rtol=1e-9, atol=1e-12)


def test_one_drawn_word_has_this_gradient_on_average():
    """(checked) a ~ p', loss -R(a) log p(a), by enumeration of the three words."""
    batch, logits = setting()
    logp, targets = logits.log_softmax(-1), batch.ids[batch.own]
    tried = (logits / 1.3).softmax(-1).detach()
    mean = torch.zeros_like(logits)
    for word in range(3):
        reward = torch.where(targets == word, 1.0, -0.1 * torch.ones(5).double())
        values = -reward * logp[:, word] * otr().weigh(batch)[batch.own]
        each = [torch.autograd.grad(v, logits, retain_graph=True)[0] for v in values]
        mean += sum(tried[i, word] * g for i, g in enumerate(each))
    assert torch.allclose(gradient(otr(), batch, logits), mean, rtol=1e-9, atol=1e-12)


def test_at_temperature_one_it_is_dynamic_fine_tuning_times_one_minus_beta():
    """(checked) DFT has the gradient p(y) (p - onehot)."""
    batch, logits = setting()
    p, onehot = logits.softmax(-1).detach(), torch.nn.functional.one_hot(batch.ids[batch.own], 3)
    chosen = (p * onehot).sum(-1, keepdim=True)
    dft = chosen * (p - onehot) * otr().weigh(batch)[batch.own][:, None]
    for beta in (-0.1, 0.5):
        found = gradient(otr(1.0, beta), batch, logits)
        assert torch.allclose(found, (1 - beta) * dft, rtol=1e-6, atol=1e-12)
    other = gradient(otr(1.3), batch, logits)
    assert not torch.allclose(other / dft, (other / dft)[0, 0], rtol=0.05), "not proportional"


def test_every_row_counts_alike():
    batch, _ = setting()
    assert otr().weigh(batch).sum(1).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("arguments", [{"kappa": 0.0}, {"beta": 1.0}])
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="kappa is above 0"):
        otr(**arguments)
