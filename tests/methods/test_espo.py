"""espo: the ratio and the penalty of whole answers, and pairs of canvases that share their noise."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.grade import grade
from autodidact.learn import gradients
from autodidact.methods.espo import espo
from autodidact.models import Models
from toys import about, perturb, random_logits, random_masked, rows_of, toy_task

LENGTHS, REWARDS = [4, 1, 3], [1.0, 0.0, 0.25]


def parts(method, logits, old, share=1.0):
    """A batch as credit leaves it, and the scores of pairs that were read at `logits`."""
    batch = rows_of(LENGTHS, advantage=[0.5] * 4 + [-0.5] + [0.25] * 3)
    before = share * about(batch, old).logp.detach()
    batch = batch.put(share=torch.full((*batch.own.shape, 2), share), before=before)
    scores = dict.fromkeys(("policy", "policy:1"), about(batch, logits))
    return batch, scores


def test_a_row_has_one_ratio_and_a_penalty_of_its_sum():
    method = espo(n=3, clip=10.0, kl=0.7)
    logits, old, reference = (random_logits(8, 3, seed=seed) for seed in range(3))
    batch, scores = parts(method, logits, old, share=0.5)
    beside = dict.fromkeys(("reference", "reference:1"), about(batch, reference.detach()))
    found = (method.loss({**scores, **beside}, batch) * method.weigh(batch)).sum()

    elbo = 0.5 * scores["policy"].logp.sum(1)
    far = 0.5 * beside["reference"].logp.sum(1)
    expected = 0.0
    for row, length in enumerate(LENGTHS):
        gap = float((elbo[row] - batch.take("before")[row].sum()).detach()) / length
        advantage = float(batch.take("advantage")[row].max() or batch.take("advantage")[row].min())
        expected += -math.exp(gap) * advantage
        expected += 0.7 * float((elbo[row] - far[row]).detach()) ** 2 / (2 * length)
    assert float(found.detach()) == pytest.approx(expected / 3, rel=1e-6)


def test_the_clip_is_one_of_whole_answers():
    """A good answer whose ratio is beyond 1.2 learns nothing, whatever its tokens' ratios are."""
    method = espo(n=3, kl=0.0)
    logits = random_logits(8, 3)
    batch, scores = parts(method, logits, logits)
    before = batch.take("before").clone()
    before[0, 1:5] -= torch.tensor([2.0, -0.4, -0.4, -0.4])  # 0.2 nats each on average: e^.2 > 1.2
    loss = method.loss(scores, batch.put(before=before)) * method.weigh(batch)
    slope = torch.autograd.grad(loss.sum(), logits)[0]
    assert not slope[:4].any() and slope[4:].abs().min() > 0


@pytest.fixture
def drawn(tokenizer):
    """(models, a graded batch of masked rollouts)."""
    models = Models(random_masked(tokenizer))
    task = toy_task(3)
    method = espo(n=3, length=5, steps=None)
    return models, grade(method.rollout(task.train, models, task, 3), models)


def test_pairs_are_complements_whose_weights_are_those_of_one_chance(drawn):
    """1/(2u) in M and 1/(2(1-u)) beyond: their inverses add up to 2, so all weigh 1 on average."""
    models, batch = drawn
    method = espo(n=3, length=5, steps=None)
    batch = method.credit(batch, models)
    views = method.views(batch, models)
    hidden, share, both = batch.take("hidden"), batch.take("share"), 0
    for number, name in enumerate(("policy", "policy:1")):
        for row in range(len(batch)):
            own = batch.own[row]
            inside = hidden[row, own, number] == 1
            weights = share[row, own, number]
            if inside.any() and not inside.all():
                total = 1 / weights[inside][0] + 1 / weights[~inside][0]
                assert float(total) == pytest.approx(2, rel=1e-6)
                both += 1
        view = views[name]
        assert torch.equal(view.asked, batch.own), "each token is asked in one of the two"
        read = view.ids.flatten()[view.at[view.asked]]
        assert (read == models.policy.mask).all()
        first, second = view.ids.chunk(2)
        written = batch.take("order") > 0
        mask = models.policy.mask
        assert torch.equal((first == mask) ^ (second == mask), written)
    assert both > 3


def test_policy_old_and_reference_read_the_same_canvases(drawn):
    models, batch = drawn
    method = espo(n=3, length=5, steps=None, kl=0.1)
    batch = method.credit(batch, models)
    views = method.views(batch, models)
    for name in ("policy", "policy:1"):
        other = views[name.replace("policy", "reference")]
        assert torch.equal(views[name].ids, other.ids) and torch.equal(views[name].at, other.at)
    loss = method.loss(models.scores(views, batch), batch)
    advantage = batch.take("advantage")
    assert torch.allclose(loss.detach(), -advantage.to(loss.dtype), atol=1e-12), "ratios are 1"


def test_with_one_update_it_is_reinforce_on_the_elbo_of_each_token(drawn):
    """grad L = -(1/B) sum_i A_i grad ELBO_i / T_i."""
    models, batch = drawn
    method = espo(n=3, length=5, steps=None, kl=0.0)
    perturb(models.policy)
    found = gradients(method, models, batch).policy
    batch = method.credit(batch, models)
    scores = models.scores(method.views(batch, models), batch)
    elbo = sum(
        batch.take("share")[..., i] * scores[name].logp / 2  # draws
        for i, name in enumerate(("policy", "policy:1"))
    )
    length = batch.own.sum(1)
    loss = -(batch.take("advantage") * elbo).sum(1) / length
    weights = [p for p in models.policy.model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss.mean(), weights, allow_unused=True)
    expected = [each for each in expected if each is not None]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_one_answer_is_no_group():
    with pytest.raises(ValueError, match="n=1"):
        espo(n=1)
