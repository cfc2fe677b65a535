"""What an estimator is worth, and what its gradient is, on average: by enumeration of the words.

With u = log(pi/ref) at the sampled word, k3 = exp(-u) - 1 + u has the value of KL(pi, ref) and
the gradient of KL(ref, pi): it is the other divergence when it is differentiated as a loss. The
advantage -u at ratio one has the gradient of KL(pi, ref).
"""

from __future__ import annotations

import pytest
import torch

from autodidact.losses.policy import clipped, k3
from toys import random_logits


@pytest.fixture(params=[3, 7])
def laws(request):
    """Logits of the policy and log-probabilities of the reference."""
    words = request.param
    return random_logits(words), random_logits(words, seed=1).detach().log_softmax(-1)


def mean_gradient(values: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """E_pi of the gradient of the value at the sampled word: the sampling is not differentiated."""
    chance = logits.softmax(-1).detach()
    return torch.autograd.grad((chance * values).sum(), logits)[0]


def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.exp() * (a - b)).sum()


def test_k3_has_the_value_of_the_reverse_divergence(laws):
    logits, reference = laws
    logp = logits.log_softmax(-1)
    values = k3(logp[None], reference[None])[0]
    assert (values >= 0).all()
    expected = kl(logp, reference).detach()
    assert float((logp.exp() * values).sum().detach()) == pytest.approx(float(expected), rel=1e-12)


def test_k3_has_the_gradient_of_the_forward_divergence(laws):
    logits, reference = laws
    logp = logits.log_softmax(-1)
    found = mean_gradient(k3(logp[None], reference[None])[0], logits)
    forward = torch.autograd.grad(kl(reference, logits.log_softmax(-1)), logits)[0]
    assert torch.allclose(found, forward, rtol=1e-10, atol=1e-14)
    reverse = torch.autograd.grad(kl(logits.log_softmax(-1), reference), logits)[0]
    assert not torch.allclose(found, reverse, rtol=0.1)


def test_weighed_by_its_own_ratio_k3_has_the_gradient_of_the_reverse_divergence(laws):
    logits, reference = laws
    logp = logits.log_softmax(-1)
    ratio = (logp - logp.detach()).exp()
    found = mean_gradient(ratio * k3(logp[None], reference[None])[0], logits)
    reverse = torch.autograd.grad(kl(logits.log_softmax(-1), reference), logits)[0]
    assert torch.allclose(found, reverse, rtol=1e-10, atol=1e-14)


def test_the_log_ratio_as_an_advantage_has_the_gradient_of_the_reverse_divergence(laws):
    logits, reference = laws
    logp = logits.log_softmax(-1)
    advantage = reference - logp
    values = clipped(logp[None], logp[None], advantage[None], 0.2, 0.2)[0]
    reverse = torch.autograd.grad(kl(logits.log_softmax(-1), reference), logits, retain_graph=True)[
        0
    ]
    assert torch.allclose(mean_gradient(values, logits), reverse, rtol=1e-10, atol=1e-14)


def test_references_and_advantages_get_no_gradient():
    logp, other, advantage = random_logits(3, 1, 4)
    for values in (k3(logp, other), clipped(logp, other, advantage, 0.2, 0.2)):
        assert torch.autograd.grad(values.sum(), [other, advantage], allow_unused=True) == (
            None,
            None,
        )
