"""Divergences: TRL's GKD loss and ours on the same models and rows, values and gradients.

In float64, as TRL keeps the precision of the logits here. Where the two differ by design:

- TRL's beta = 0 and 1 are KL(teacher || student) and KL(student || teacher). Ours have these as
  kinds of their own, "forward" and "reverse", and refuse the ends of the JSD, which are 0.
- `GKDTrainer.compute_loss` holds the logits of both models and ignores the trainer's temperature.
  Ours never holds them, and divides both by the temperature the tokens were drawn at.
- "batchmean" is the mean over the own tokens of a micro-batch. Our weights are those of the whole
  batch; so are TRL's when its trainer passes `num_items_in_batch`, as it does in training.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from against.trl_peer import REASON, answer, largest_gap
from autodidact.divergence import Divergence
from autodidact.method import Method
from autodidact.models import Models
from autodidact.rollouts.given import Given
from autodidact.view import plain
from toys import laws, perturb, random_logits, random_qwen, toy_task

pytest.importorskip("trl", reason=REASON)
pytestmark = pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
FLOAT64 = 1e-9
WEIGHT = 1e-7
"""One over the number of tokens is a float32 number in our batches."""
KINDS = {
    0.0: Divergence("forward"),
    0.1: Divergence("jsd", 0.1),
    0.5: Divergence("jsd", 0.5),
    0.9: Divergence("jsd", 0.9),
    1.0: Divergence("reverse"),
}


@pytest.fixture(scope="module")
def gkd():
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("beta", KINDS)
def test_values_and_gradients_in_the_logits(beta, temperature, gkd):
    student, peer = random_logits(5, 7, seed=1, size=2.0), random_logits(5, 7, seed=1, size=2.0)
    teacher = random_logits(5, 7, seed=2, size=2.0)
    asked = torch.tensor([[True, True, False, True], [False, True, True, False]])
    labels = torch.arange(5)

    ours = laws(student, labels, asked, temperature).divergence(
        laws(teacher, labels, asked, temperature), KINDS[beta]
    )
    theirs = gkd.generalized_jsd_loss(
        peer[None], teacher.detach()[None], None, beta, temperature, reduction="none"
    )[0].sum(-1)
    torch.testing.assert_close(ours[asked], theirs, rtol=FLOAT64, atol=FLOAT64)

    weight = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    (ours[asked] * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(student.grad, peer.grad, rtol=FLOAT64, atol=FLOAT64)
    assert teacher.grad is None, "the teacher is detached"


@pytest.mark.parametrize("beta", KINDS)
def test_loss_and_gradients_in_the_weights(beta, gkd, tokenizer):
    task = toy_task()
    models = Models(random_qwen(tokenizer))
    teacher = models["initial"]
    perturb(models.policy, 0.1)
    weights = {name: value.clone() for name, value in models.policy.model.state_dict().items()}
    batch = Given()(task.train, models, task, 0)

    def loss(scores, batch):
        return scores["policy"].divergence(scores["teacher"], KINDS[beta])

    def views(batch, models):
        return {"policy": plain(batch), "teacher": plain(batch, "initial")}

    found, gradient = answer(Method(Given(), loss, views=views), batch, models, weights, 2)

    labels = batch.ids.masked_fill(~batch.own, -100)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.real.long(), "labels": labels}
    trainer = SimpleNamespace(
        teacher_model=teacher.model, beta=beta, generalized_jsd_loss=gkd.generalized_jsd_loss
    )
    models.policy.model.zero_grad()
    theirs = gkd.compute_loss(trainer, models.policy.model, inputs)
    theirs.backward()
    expected = float(theirs.detach())
    peer = {name: p.grad for name, p in models.policy.model.named_parameters()}
    assert found == pytest.approx(expected, rel=WEIGHT)
    assert expected > 1e-3
    assert largest_gap(gradient, peer) < WEIGHT
