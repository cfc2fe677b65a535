"""lp_reg: the filtered law, which tokens it protects, and the truncated ratio."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.head import Head
from autodidact.losses.policy import Surrogate
from autodidact.methods.lp_reg import lp_reg
from autodidact.scores import Scores
from toys import about, laws, random_logits, rows_of


def test_the_divergence_to_the_filtered_law_on_three_words():
    """p = 0.7, 0.29, 0.01: at kappa 0.02 the last is noise, q = 0.7/0.99, 0.29/0.99, 0."""
    p = torch.tensor([0.7, 0.29, 0.01], dtype=torch.float64)
    logits = p.log().repeat(3, 1).requires_grad_()
    scores = laws(logits, [0, 1, 2])
    value = scores.filtered(0.02)
    assert value.flatten().tolist() == pytest.approx([-math.log(0.99)] * 3, rel=1e-12)
    q = torch.tensor([0.7, 0.29, 0.0], dtype=torch.float64) / 0.99
    slope = torch.autograd.grad(value.sum(), logits)[0]
    assert torch.allclose(slope, (p - q).expand(3, 3), rtol=1e-10)
    assert (slope[:, :2] < 0).all() and (slope[:, 2] > 0).all(), "kept words rise, noise falls"
    assert scores.notes["kept"].flatten().tolist() == [1, 1, 0]
    assert laws(logits, [0, 1, 2]).filtered(0.0).abs().max() < 1e-15
    with pytest.raises(ValueError, match="below 1"):
        scores.filtered(1.0)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_divergence_against_autograd_through_a_trained_head(softcap):
    head = Head(random_logits(9, 4, seed=1), random_logits(9, seed=2), 0.7, softcap)
    hidden, asked = random_logits(6, 4), torch.ones(2, 3, dtype=torch.bool)
    weight = torch.linspace(-1, 2, 6).double()
    scores = Scores(hidden, head, asked, torch.arange(6), 1.3, torch.ones(6).double())
    found = scores.filtered(0.3)
    logits = (hidden @ head.weight.T + head.bias) * 0.7
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    logp = (logits / 1.3).log_softmax(-1)
    p = logp.detach().exp()
    q = p * (p > 0.3 * p.amax(-1, keepdim=True))
    q = q / q.sum(-1, keepdim=True)
    wanted = torch.special.xlogy(q, q).sum(-1) - (q * logp).sum(-1)
    assert torch.allclose(found.flatten(), wanted, rtol=1e-10)
    assert 0 < int((q > 0).sum()) < q.numel() and wanted.min() > 1e-3
    inputs = (hidden, head.weight, head.bias)
    slopes = [
        torch.autograd.grad((value.flatten() * weight).sum(), inputs, retain_graph=True)
        for value in (found, wanted)
    ]
    for one, two in zip(*slopes, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)


def ready(method, lengths, rewards, logits, shift=0.0):
    batch = rows_of(lengths, rewards)
    scores = about(batch, logits)
    old = torch.where(batch.own, scores.logp.detach() - shift, 0.0)
    return method.credit(batch.put(raw=old), None), scores


def test_beta_zero_is_the_truncated_ratio():
    """-clip(rho, 0, U) A: no lower bound, and beyond U no gradient for either sign."""
    lengths, rewards = [4, 3, 2], [1.0, 0.0, 0.25]
    logits = random_logits(9, 3)
    shift = torch.linspace(-2, 2, 5).double().repeat(3)[None].expand(3, 15)[:, :5]
    batch, scores = ready(lp_reg(n=3, beta=0.0, bound=2.0), lengths, rewards, logits, shift)
    method = lp_reg(n=3, beta=0.0, bound=2.0)
    value = method.loss({"policy": scores}, batch)
    ratio = (scores.logp - batch.take("raw")).exp()
    wanted = -ratio.clamp(0, 2.0) * batch.take("advantage")
    assert torch.allclose(value[batch.own], wanted[batch.own], rtol=1e-12)
    found, other = (torch.autograd.grad(v[batch.own].sum(), logits, retain_graph=True)[0]
                    for v in (value, wanted))  # fmt: skip
    assert torch.allclose(found, other, rtol=1e-10, atol=1e-14)
    high = (ratio > 2) & batch.own
    assert (high & (batch.take("advantage") < 0)).any() and (ratio[batch.own] < 0.5).any()
    untouched = lp_reg(n=3, beta=0.0, bound=1e6)
    ppo = Surrogate(low=1.0, high=1e9)
    assert torch.allclose(
        untouched.loss({"policy": scores}, batch), ppo.loss({"policy": scores}, batch), rtol=1e-12
    )


def planted():
    """Two rows; the wrong one has a plausible rare token, a noise token, and a common one."""
    p = torch.tensor(
        [
            [0.90, 0.05, 0.05],  # right, token 1
            [0.90, 0.05, 0.05],  # right, token 2
            [0.895, 0.005, 0.10],  # wrong, token 2: rare but plausible
            [0.995, 0.004, 0.001],  # wrong, token 0: common
            [0.50, 0.499, 0.001],  # wrong, token 1
            [0.994, 0.005, 0.001],  # wrong, token 2: noise
        ],
        dtype=torch.float64,
    )
    return [2, 4], [1.0, 0.0], p.log()


def test_only_rare_plausible_tokens_of_wrong_answers_are_protected():
    lengths, rewards, logits = planted()
    assert rows_of(lengths).ids[rows_of(lengths).own].tolist() == [1, 2, 2, 0, 1, 2]
    logits = logits.requires_grad_()
    method = lp_reg(n=2, share=4 / 6, beta=3.0)
    batch, scores = ready(method, lengths, rewards, logits)
    assert batch.take("rare")[batch.own].tolist() == [0, 0, 1, 0, 0, 1], "the lowest four of six"
    with_it, without = (
        m.loss({"policy": scores}, batch)[batch.own] for m in (method, lp_reg(n=2, beta=0.0))
    )
    kl = scores.filtered(0.02)[batch.own].detach()
    extra = (with_it - without).detach()
    assert extra.tolist() == pytest.approx([0, 0, 3 * float(kl[2]), 0, 0, 0], abs=1e-12)
    slope = torch.autograd.grad((with_it - without).sum(), logits)[0]
    assert not slope[[0, 1, 3, 4, 5]].abs().gt(1e-12).any(), "the filtered token is untouched"
    assert slope[2, 2] < -1e-4 < 1e-4 < slope[2, 1], "the rare word rises, the noise falls"


def test_the_sampled_form_pushes_kept_tokens_up():
    """d loss / d lp = beta (1 - exp(log q - lp)) < 0, of k3 at the token."""
    p = torch.tensor([[0.7, 0.29, 0.01]] * 2, dtype=torch.float64)
    logits = p.log().requires_grad_()
    batch = rows_of([1, 1], [1.0, 0.0])
    scores = about(batch, logits)
    assert scores.targets.tolist() == [1, 2]
    batch = batch.put(
        raw=scores.logp.detach(), advantage=-batch.own.double(), rare=batch.own.double()
    )
    values = [
        lp_reg(n=2, beta=beta, form="sampled").loss({"policy": scores}, batch)
        for beta in (2.0, 0.0)
    ]
    slope = torch.autograd.grad((values[0] - values[1]).sum(), logits)[0]
    per_logp = 2.0 * (1 - 1 / 0.99)
    onehot = torch.tensor([0.0, 1.0, 0.0]).double()
    assert per_logp < 0 and torch.allclose(slope[0], per_logp * (onehot - p[0]), rtol=1e-9)
    assert not slope[1].any(), "the token that is noise"


@pytest.mark.parametrize(
    "wrong", [{"n": 1}, {"share": 1.5}, {"kappa": 1.0}, {"beta": -1.0}, {"bound": 0.5}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        lp_reg(**wrong)
    with pytest.raises(ValueError, match="did you mean 'sampled'"):
        lp_reg(form="sample")
