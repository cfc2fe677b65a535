"""masked_sft: what is hidden and what a guess counts, in answers, in grids and in whole texts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from autodidact.batch import Batch
from autodidact.learn import gradients
from autodidact.losses.likelihood import LEAST, Likelihood
from autodidact.methods.masked_sft import masked_sft
from autodidact.model import load
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.rollouts.given_canvas import GivenCanvas
from autodidact.tasks.sudoku import sudoku
from toys import random_masked, toy_task


@pytest.fixture
def models(tokenizer):
    return Models(random_masked(tokenizer))


def loss_of(method, models, batch):
    batch = method.credit(batch, models)
    scores = models.scores(method.views(batch, models), batch)
    return batch, scores, (method.loss(scores, batch) * method.weigh(batch)).sum()


# ------------------------------------------------------------------ what is given


def test_answers_are_filled_up_with_end_tokens_that_count(models):
    task, lm = toy_task(3), models.policy
    batch = GivenCanvas(16)(task.train, models, task, 0)
    for row, problem in enumerate(task.train):
        own = batch.own[row]
        words = lm.encode(problem.solution)
        assert batch.ids[row][own].tolist() == words + [lm.end] * (16 - len(words))
        assert torch.equal(own, batch.take("order")[row] == 1)
        assert torch.equal(own, batch.take("canvas")[row] == 1)
        prompt = lm.render(task.prompt(problem))
        assert batch.ids[row][batch.real[row] & ~own].tolist() == prompt
    bare = GivenCanvas()(task.train, models, task, 0)
    assert [len(lm.encode(p.solution)) for p in task.train] == bare.own.sum(1).tolist()


def test_a_grid_is_filled_in_place():
    models = Models(load("tiny_diffusion_early"))
    task = sudoku(empties=6, wording="terse", canvas=True, train=4, test=1)
    batch = GivenCanvas(99)(task.train, models, task, 0)
    assert batch.ids.shape == (4, 16) and batch.real.all() and batch.take("canvas").all()
    for row, problem in enumerate(task.train):
        assert models.policy.decode(batch.ids[row].tolist()) == problem.solution
        empty = [cell == "0" for cell in problem.meta["puzzle"]]
        assert batch.own[row].tolist() == empty
        assert torch.equal(batch.take("order")[row] == 1, batch.own[row])
    whole = GivenCanvas(whole=True)(task.train, models, task, 0)
    assert whole.own.all()


def test_the_whole_text_is_hidden_in_pre_training(models):
    task = toy_task(3)
    batch = GivenCanvas(12, whole=True)(task.train, models, task, 0)
    assert torch.equal(batch.own, batch.real)
    answers = GivenCanvas(12)(task.train, models, task, 0)
    assert torch.equal(batch.ids, answers.ids)


def test_solutions_that_do_not_fit_are_named(models):
    task = toy_task(2)
    with pytest.raises(ValueError, match="length=3 is all there is"):
        GivenCanvas(3)(task.train, models, task, 0)
    for canvas in (["9", *[None] * 4], [None] * 7):
        given = replace(task, canvas=lambda problem, canvas=canvas: canvas)
        with pytest.raises(ValueError, match=f"canvas of {len(canvas)} tokens"):
            GivenCanvas()(task.train[:1], models, given, 0)
    with pytest.raises(ValueError, match="length"):
        GivenCanvas(0)


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize("pretrain", [False, True])
def test_the_loss_by_hand(models, pretrain):
    """(1/B) sum_i (1/T_i) sum_{hidden} CE / u_i, by transformers' own cross-entropy."""
    task, method = toy_task(3), masked_sft(length=12, pretrain=pretrain)
    batch = method.rollout(task.train, models, task, 0)
    batch, _, found = loss_of(method, models, batch)
    expected, lm, hidden_tokens = 0.0, models.policy, 0
    for row in range(len(batch)):
        width = int(batch.real[row].sum())
        ids, hidden = batch.ids[row, :width], batch.take("hidden")[row, :width, 0] == 1
        assert not (hidden & ~batch.own[row, :width]).any()
        read = torch.where(hidden, lm.mask, ids)
        logits = lm.model(read[None], use_cache=False).logits[0]
        ce = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
        weight = batch.take("share")[row, :width, 0][hidden].unique()
        assert len(weight) <= 1
        chance = 1 / float(weight[0]) if len(weight) else 1.0
        assert LEAST <= chance <= 1
        expected += float(ce[hidden].sum().detach()) / chance / int(batch.own[row].sum())
        hidden_tokens += int(hidden.sum())
    assert hidden_tokens > 5
    assert float(found.detach()) == pytest.approx(expected / 3, rel=1e-6)


def test_prompt_tokens_are_hidden_in_pre_training_only(models):
    task, seen = toy_task(4), {}
    for pretrain in (False, True):
        method = masked_sft(length=12, draws=8, pretrain=pretrain)
        batch = method.rollout(task.train, models, task, 0)
        hidden = method.credit(batch, models).take("hidden").bool().any(-1)
        answers = GivenCanvas(12)(task.train, models, task, 0).own
        seen[pretrain] = bool((hidden & batch.real & ~answers).any())
    assert seen == {False: False, True: True}


def test_on_average_it_is_an_upper_bound_of_the_negative_log_likelihood(tokenizer):
    """Of two tokens: both kinds of noise have the mean of both orders, and log p lies above.

    The mean over 1500 canvases, within 5 standard errors; log p is that of the mixed orders.
    """
    words = 6
    models = Models(random_masked(tokenizer, vocab_size=words))
    ids = torch.tensor([[1, 3, 4]])
    own = torch.tensor([[False, True, True]])
    row = Batch(ids, torch.ones_like(own), own, torch.zeros(1, dtype=torch.long), (Problem(""),),
                toy_task()).put(order=own.double(), canvas=own.double())  # fmt: skip
    says = {}
    for hidden in itertools.product((False, True), repeat=2):
        read = torch.where(torch.tensor([[False, *hidden]]), models.policy.mask, ids)
        logits = models.policy.model(read, use_cache=False).logits[0].detach()
        says[hidden] = logits.log_softmax(-1).gather(-1, ids[0][:, None])[1:, 0]
    both = says[True, True]
    orders = [both[0] + says[False, True][1], both[1] + says[True, False][0]]
    elbo = float(sum(orders)) / 2
    exact = math.log(sum(math.exp(float(each)) for each in orders) / 2)
    assert elbo < exact
    for noise in ("bernoulli", "elbo"):
        found = Likelihood(noise, draws=1500, ratio=False).noise(row, models)
        hidden, share = found["hidden"][0, 1:].bool(), found["share"][0, 1:]
        values = torch.stack([
            (says[tuple(hidden[:, d].tolist())] * share[:, d]).sum() for d in range(1500)
        ])  # fmt: skip
        error = float(values.std()) / 1500**0.5
        assert abs(float(values.mean()) - elbo) < 5 * error
        few = {name: each[..., :4] for name, each in found.items()}
        method = masked_sft(length=None, draws=4, noise=noise)
        _, _, loss = loss_of(replace(method, credit=lambda b, m, f=few: b.put(**f)), models, row)
        assert float(loss.detach()) == pytest.approx(-float(values[:4].mean()) / 2, rel=1e-6)


def test_every_step_hides_other_tokens_and_a_certain_model_learns_nothing(models):
    task, method = toy_task(4), masked_sft(length=12)
    batch = method.rollout(task.train, models, task, 0)
    one = method.credit(batch, models).take("hidden")
    models.ledger.optimizer_steps = 1
    two = method.credit(batch, models).take("hidden")
    assert not torch.equal(one, two)
    assert max(float(g.abs().max()) for g in gradients(method, models, batch).policy) > 1e-6


def test_an_unknown_noise_is_refused():
    with pytest.raises(ValueError, match="bernoulli"):
        masked_sft(noise="bernouli")
