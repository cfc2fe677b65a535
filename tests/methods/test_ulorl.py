"""ulorl: what is masked, what is dropped, and to which law the ratio is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.grade import grade
from autodidact.methods.grpo import grpo
from autodidact.methods.ulorl import ulorl
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain
from toys import about, perturb, rows_of, toy_task

SURE, OPEN = [9.0, 0.0, 0.0], [0.5, 0.0, 0.0]
"""Logits of a token of probability 0.9998 for word 0, and of one of 0.45."""


class Reader:
    """Models whose scores are given, whatever is asked."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def score(self, view, batch):
        return about(batch, self.logits)


def case(rewards, **arguments):
    """Rows of a sure and a mixed kind, all of word 0: the credited batch and its method."""
    logits = torch.tensor([SURE, SURE, SURE, OPEN, SURE, SURE], dtype=torch.float64)
    batch = rows_of([2, 2, 2], rewards)
    batch = replace(batch, ids=torch.zeros_like(batch.ids))
    method = ulorl(3, 2, 2, **arguments)
    return method.credit(batch, Reader(logits)), method


def entropy(logits: list[float]) -> float:
    p = torch.tensor(logits, dtype=torch.float64).softmax(0)
    return -float((p * p.log()).sum())


def test_only_sure_tokens_of_right_and_calm_rows_are_masked():
    """Row 0 is right and calm, row 1 right and open at its second token, row 2 wrong and calm."""
    batch, method = case([1.0, 1.0, 0.0])
    plainly, _ = case([1.0, 1.0, 0.0], sigma=0.0)
    assert entropy(OPEN) / 2 > 0.2
    kept = torch.tensor([[0, 0, 0], [0, 1, 1], [0, 1, 1]]).bool()
    assert plainly.take("advantage")[batch.own].all()
    assert torch.equal(batch.take("advantage"), plainly.take("advantage") * kept)
    weight = method.weigh(batch)
    assert weight[batch.own].tolist() == pytest.approx([1 / 6] * 6), "the masked are counted too"


@pytest.mark.parametrize(
    ("sigma", "masked"),
    [(0.0, []), (entropy(SURE) - 1e-9, []), (0.2, [(0, 1), (0, 2)]),
     (math.inf, [(0, 1), (0, 2), (1, 1)])],
)  # fmt: skip
def test_sigma_is_the_mean_entropy_from_which_nothing_is_masked(sigma, masked):
    batch, _ = case([1.0, 1.0, 0.0], sigma=sigma)
    silent = batch.own & (batch.take("advantage") == 0)
    assert [tuple(place) for place in silent.nonzero().tolist()] == masked


def test_sure_is_the_least_probability_of_a_mastered_token():
    p = math.exp(9) / (math.exp(9) + 2)
    for sure, count in ((p - 1e-6, 3), (p + 1e-6, 0), (0.0, 4)):
        batch, _ = case([1.0, 1.0, 0.0], sigma=math.inf, sure=max(sure, 1e-9))
        assert int((batch.own & (batch.take("advantage") == 0)).sum()) == count


def test_a_wrong_or_half_right_row_is_never_masked():
    batch, _ = case([0.0, 0.5, 0.9], sigma=math.inf, sure=1e-9)
    assert batch.take("advantage")[batch.own].all()


def test_groups_whose_rewards_are_equal_are_dropped(qwen):
    models, task = Models(qwen), toy_task(8)
    method = ulorl(3, 5, 5)
    batch = grade(method.rollout(task.train, models, task, 0), models)
    batch = batch.put(reward=torch.where(batch.group % 3 == 0, 0.5, batch.take("reward")))
    found = method.credit(batch, models)
    rewards = batch.take("reward").view(-1, 3)
    spread = (rewards != rewards[:, :1]).any(1)
    assert 0 < spread.sum() < 8
    questions = [problem.question for problem in found.rows]
    expected = [p.question for p, good in zip(task.train, spread, strict=True) if good]
    assert questions == [each for each in expected for _ in range(3)]
    same = batch.put(reward=torch.ones(len(batch)))
    before = models.ledger.teacher_forward
    assert len(method.credit(same, models)) == 0
    assert models.ledger.teacher_forward == before, "what is dropped is not read"


def gradient(method, batch, models) -> torch.Tensor:
    """In the output head."""
    head = models.policy.model.lm_head.weight
    scores = models.scores(method.views(batch, models), batch)
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, head)[0]


def test_one_segment_without_masks_is_grpo_over_tokens_of_the_groups_with_spread(qwen):
    models, task = Models(qwen), toy_task(8)
    ours = ulorl(3, 5, 5, sigma=0.0, temperature=1.0)
    base = grpo(3, 5, normalise="token")
    batch = grade(ours.rollout(task.train, models, task, 0), models)
    drawn = base.rollout(task.train, models, task, 0)
    assert torch.equal(batch.ids, drawn.ids) and torch.equal(batch.take("raw"), drawn.take("raw"))
    reward = torch.where(batch.group % 3 == 0, 0.5, batch.take("reward"))
    left = ours.credit(batch.put(reward=reward), models)
    rows = (batch.group % 3 > 0).nonzero().squeeze(1).tolist()
    usual = base.credit(drawn.put(reward=reward).select(rows), models)
    assert torch.equal(left.take("advantage"), usual.take("advantage"))
    expected = gradient(base, usual, models)
    found = gradient(ours, left, models)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9) and found.abs().max() > 1e-4


def test_the_ratio_is_one_by_default_and_else_to_the_weights_that_drew_the_piece(qwen):
    """Pieces of three tokens, drawn before and after the weights moved."""
    models, task = Models(qwen), toy_task(8)
    found = {}
    for ratio in ("pseudo", "segment"):
        method = ulorl(2, 6, 3, ratio=ratio, sigma=0.0, clip=9.0)
        if not found:
            method.rollout(task.train, models, task, 0)
            perturb(qwen, 0.05)
            drawn = grade(method.rollout([], models, task, 1), models)
            perturb(qwen, 0.05, seed=2)
        batch = method.credit(drawn, models)
        assert set(batch.take("age")[batch.own].tolist()) == {0.0, 1.0}
        found[ratio] = gradient(method, batch, models)
        scores = models.score(plain(batch), batch)
        logp = scores.logp
        old = logp.detach() if ratio == "pseudo" else batch.take("raw")
        assert (batch.take("raw") - logp.detach())[batch.own].abs().max() > 0.05
        value = -(logp - old).exp() * batch.take("advantage") * method.weigh(batch)
        head = qwen.model.lm_head.weight
        expected = torch.autograd.grad(value.sum(), head)[0]
        assert torch.allclose(found[ratio], expected, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(*found.values(), rtol=1e-2)


def test_a_run_goes_on_where_early_steps_have_nothing_to_learn_from(qwen):
    training = Training(ulorl(2, 6, 2), Models(qwen), toy_task(), Run(steps=6, rows=8))
    lines = [training.advance()[1] for _ in range(6)]
    training.close()
    assert any(line["empty"] for line in lines) and any(not line["empty"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"), [({"n": 1}, "at least 2"), ({"ratio": "segments"}, "'segment'")]
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ulorl(**arguments)
