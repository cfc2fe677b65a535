"""Distillation: TRL's losses of GKD, SDFT, SDPO and IW-OPD and ours on the same logits.

In float64, values and gradients in the logits. Equal are: the divergences over the whole
vocabulary, over the student's list (as in SDFT and SDPO) and over the lists of IW-OPD; the
gradient at the sampled token; the truncated ratio. What differs, each in a test of its own:

- The value that SDFT and SDPO report at the sampled token is log p sg(log p/q), which estimates
  nothing; ours is an estimate of the divergence, never negative.
- The importance-weighted advantage of IW-OPD has the sampler's log p, ours the trainer's.
- A tail that holds no mass: TRL leaves 1e-7 in it, ours nothing.
- GKD decides by one coin a step whether all rows are drawn, with `lmbda`; ours by one a row.
  Its tokens are weighed alike within a micro-batch; SDFT and SDPO average within rows first.
"""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import pytest
import torch

from against.trl_peer import REASON
from autodidact.divergence import Divergence, Support
from autodidact.losses.divergence import Estimator, distill
from autodidact.methods.gkd import gkd
from autodidact.methods.on_policy_distillation import on_policy_distillation
from autodidact.methods.opsd import opsd
from toys import about, random_logits, rows_of

pytest.importorskip("trl", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
FLOAT64 = {"rtol": 1e-9, "atol": 1e-12}
WORDS, TOKENS = 7, 5


@pytest.fixture(params=["sdft", "sdpo"])
def peer(request):
    """The loss functions of one of the two, which are copies of each other."""
    import importlib

    return importlib.import_module(f"trl.experimental.{request.param}.loss_utils")


@pytest.fixture(scope="module")
def weighted():
    from trl.experimental.iw_opd import IWOPDTrainer

    return IWOPDTrainer


def pair():
    """The student's logits twice, for each side its own gradient, and the teacher's."""
    one, two = (random_logits(TOKENS, WORDS, seed=1, size=2.0) for _ in range(2))
    return one, two, random_logits(TOKENS, WORDS, seed=2, size=2.0).detach()


def scored(student, teacher):
    batch = rows_of([3, 2])
    return batch, {"policy": about(batch, student), "teacher": about(batch, teacher)}


def assert_alike(ours, theirs, student, peer_student, value=True):
    """Equal values and, under weights that differ by token, equal gradients in the logits."""
    if value:
        torch.testing.assert_close(ours, theirs, **FLOAT64)
    weight = torch.linspace(0.5, 2, TOKENS, dtype=torch.float64)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(student.grad, peer_student.grad, **FLOAT64)
    assert student.grad.abs().max() > 1e-3


def settings(alpha: float) -> dict:
    kind = {0.0: "forward", 1.0: "reverse"}.get(alpha, "jsd")
    return {"divergence": kind, "beta": alpha if kind == "jsd" else 0.5}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_self_distillation_over_the_whole_vocabulary(alpha, peer):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    ours = opsd(**settings(alpha)).loss(scores, batch)[batch.own]
    theirs = peer.compute_full_logit_self_distillation_loss(
        other, teacher, distillation_alpha=alpha
    )
    assert_alike(ours, theirs, student, other)


@pytest.mark.parametrize("form", ["tail", "renormalised"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_self_distillation_over_the_students_list(alpha, form, peer):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    method = opsd(**settings(alpha), support="student", k=3, form=form)
    theirs = peer.compute_topk_self_distillation_loss(
        other, teacher, distillation_topk=3, distillation_alpha=alpha,
        distillation_add_tail=form == "tail",
    )  # fmt: skip
    assert_alike(method.loss(scores, batch)[batch.own], theirs, student, other)


def test_an_empty_tail_holds_a_little_there_and_nothing_here(peer):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    ours = opsd(support="student", k=WORDS).loss(scores, batch)[batch.own]
    theirs = peer.compute_topk_self_distillation_loss(
        other, teacher, distillation_topk=WORDS, distillation_alpha=0.0, distillation_add_tail=True
    )
    torch.testing.assert_close(ours, opsd().loss(scores, batch)[batch.own], **FLOAT64)
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_sampled_token_has_the_same_gradient_and_another_value(peer):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    method = opsd(divergence="reverse", support="sampled", estimator="policy_gradient")
    ours = method.loss(scores, batch)[batch.own]
    theirs = peer.compute_sampled_token_self_distillation_loss(
        other, teacher, batch.ids[batch.own], distillation_alpha=1.0
    )
    gap = (scores["policy"].logp - scores["teacher"].logp)[batch.own].detach()
    torch.testing.assert_close(ours, (-gap).exp() + gap - 1, **FLOAT64)
    torch.testing.assert_close(theirs, gap * scores["policy"].logp[batch.own].detach(), **FLOAT64)
    assert (theirs < 0).any() and (ours >= 0).all()
    assert_alike(ours, theirs, student, other, value=False)


def test_both_refuse_other_divergences_at_the_sampled_token_but_ours_has_a_way(peer):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    with pytest.raises(ValueError, match="Only reverse KL"):
        peer.compute_sampled_token_self_distillation_loss(
            other, teacher, batch.ids[batch.own], distillation_alpha=0.0
        )
    way = Estimator(Divergence("forward", support=Support("sampled")), "policy_gradient")
    assert distill(scores["policy"], scores["teacher"], batch, way).isfinite().all()


def test_the_truncated_ratio_to_the_sampler(peer):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    logp = scores["policy"].logp.detach()
    then = logp + torch.linspace(-1.5, 1.5, logp.numel(), dtype=logp.dtype).view(logp.shape)
    batch = batch.put(logp=then * batch.own)
    ours = opsd(ratio_clip=2.0).loss(scores, batch)[batch.own]
    plain = peer.compute_full_logit_self_distillation_loss(other, teacher, distillation_alpha=0.0)
    cut = peer.apply_importance_sampling_clipping(
        plain, logp[batch.own], then[batch.own], clip_coeff=2.0
    )
    assert ((cut / plain).detach() == 2.0).any() and ((cut / plain).detach() < 1.9).any()
    assert_alike(ours, cut, student, other)


@pytest.mark.parametrize(("beta", "words"), [(0.0, "teacher"), (0.5, "union"), (1.0, "student")])
def test_the_lists_of_iw_opd(beta, words, weighted):
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    ours = opsd(**settings(beta), support=words, k=2).loss(scores, batch)[batch.own]
    theirs = weighted.generalized_jsd_loss(
        other[None], teacher[None], None, beta, 1.0, reduction="none", top_k=2
    )
    assert_alike(ours, theirs[0].sum(-1), student, other)


def unweighted(weighted, batch, logits, teacher, sampler=None):
    """The loss of IW-OPD with gamma = 0, whose logits have a row and a column for each token."""
    places = batch.own.nonzero()
    dense = torch.zeros(*batch.ids.shape, WORDS, dtype=logits.dtype)
    dense = dense.index_put((places[:, 0], places[:, 1]), logits)
    trainer = SimpleNamespace(
        temperature=1.0, iw_opd_gamma=0.0, iw_opd_epsilon=1e-8,
        model=SimpleNamespace(training=True), _metrics={"train": _Ignored()},
    )  # fmt: skip
    labels = batch.ids.masked_fill(~batch.own, -100)
    return weighted._compute_iw_opd_loss(trainer, dense, batch.ids, labels, teacher, sampler)


def test_iw_opd_without_its_weights_is_on_policy_distillation(weighted):
    """On tokens that the student itself sampled, where the two log p are one."""
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    batch = batch.put(raw=scores["policy"].logp.detach())
    (on_policy_distillation().loss(scores, batch).sum() / TOKENS).backward()
    unweighted(weighted, batch, other, scores["teacher"].logp).backward()
    torch.testing.assert_close(student.grad, other.grad, **FLOAT64)


def test_numbers_of_another_sampler_are_an_opinion_there_and_a_ratio_here(weighted):
    """log mu = log p + 1/2: theirs gains grad log p / 2 at every token, ours is scaled."""
    student, other, teacher = pair()
    batch, scores = scored(student, teacher)
    logp = scores["policy"].logp
    plain = on_policy_distillation().loss(scores, batch.put(raw=logp.detach()))
    mu = (logp.detach() + 0.5) * batch.own
    found = on_policy_distillation().loss(scores, batch.put(raw=mu))
    torch.testing.assert_close(found, plain * math.exp(-0.5), **FLOAT64)
    expected = (plain.sum() + 0.5 * logp.sum()) / TOKENS
    expected.backward()
    unweighted(weighted, batch, other, scores["teacher"].logp, mu).backward()
    torch.testing.assert_close(student.grad, other.grad, **FLOAT64)


class _Ignored(dict):
    """Takes every metric and forgets it."""

    def __missing__(self, key):
        return []


def test_gkd_tosses_one_coin_a_step_there_and_one_a_row_here():
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    assert "random.random() <= self.lmbda" in inspect.getsource(GKDTrainer.training_step)
    defaults = {field: GKDConfig.__dataclass_fields__[field].default for field in ("lmbda", "beta")}
    ours = inspect.signature(gkd).parameters
    assert defaults == {"lmbda": 0.5, "beta": 0.5}
    assert (ours["on_policy"].default, ours["beta"].default) == (1.0, 0.5)
