"""diffu_grpo: its surrogate of log p, its gradient at the start, and the canvases of its updates."""

from __future__ import annotations

import itertools

import pytest
import torch

from autodidact.batch import Batch
from autodidact.grade import grade
from autodidact.learn import gradients
from autodidact.losses.likelihood import Likelihood
from autodidact.methods.diffu_grpo import diffu_grpo
from autodidact.models import Models
from autodidact.problem import Problem
from toys import perturb, random_masked, toy_task

OPTIONS = {"n": 3, "length": 5, "steps": None, "block": None}


@pytest.fixture
def drawn(tokenizer):
    """(models, a graded batch of masked rollouts)."""
    models = Models(random_masked(tokenizer))
    task = toy_task(4)
    batch = diffu_grpo(**OPTIONS).rollout(task.train, models, task, 3)
    return models, grade(batch, models)


def texts(words: int) -> Batch:
    """All texts of two of so many words, after one token of prompt."""
    ids = torch.tensor([[1, *pair] for pair in itertools.product(range(words), repeat=2)])
    own = torch.tensor([[False, True, True]]).expand(ids.shape)
    rows = tuple(Problem(str(i)) for i in range(len(ids)))
    batch = Batch(ids, torch.ones_like(own), own, torch.arange(len(ids)), rows, toy_task())
    return batch.put(order=own.double(), canvas=own.double())


def read(kind: str, models: Models, batch: Batch) -> torch.Tensor:
    return Likelihood(kind).credit(batch, models).take("before").sum(1)


def test_the_surrogate_is_a_law_of_independent_tokens(tokenizer):
    """It sums to 1 over all texts, and is log p where tokens do not read each other (checked)."""
    models, batch = Models(random_masked(tokenizer, vocab_size=6)), texts(6)
    once, exact = read("one_step", models, batch), read("left", models, batch)
    assert float(once.exp().sum()) == pytest.approx(1, rel=1e-9)
    table = once.exp().view(6, 6)
    product = table.sum(1, keepdim=True) * table.sum(0, keepdim=True)
    assert torch.allclose(table, product, rtol=1e-9)
    assert (once - exact).abs().max() > 0.01
    with torch.no_grad():
        for layer in models.policy.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    once, exact = read("one_step", models, batch), read("left", models, batch)
    assert torch.allclose(once, exact, rtol=1e-12)


def test_at_the_start_the_gradient_is_the_advantage_times_that_of_the_surrogate(drawn):
    """(checked) rho = 1; L = -(1/N) sum_i sum_t A_i lp_t, A_i = R_i - mean R."""
    models, batch = drawn
    perturb(models.policy)
    method = diffu_grpo(**{**OPTIONS, "epochs": 1}, prompt=0.3, kl=0.0)
    found = gradients(method, models, batch).policy
    batch = method.credit(batch, models)
    scores = models.scores(method.views(batch, models), batch)
    assert torch.equal(scores["policy"].logp.detach(), batch.take("before"))
    reward = batch.take("reward")
    mean = torch.stack([reward[batch.group == g].mean() for g in batch.group])
    advantage = (reward - mean).double()[:, None] * batch.own
    loss = -(advantage * scores["policy"].logp).sum() / batch.own.sum()
    weights = [p for p in models.policy.model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, weights, allow_unused=True)
    expected = [each for each in expected if each is not None]
    assert max(float(each.abs().max()) for each in expected) > 1e-6
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)


def test_without_hidden_prompt_tokens_every_seed_reads_the_same(drawn):
    """(checked)"""
    models, batch = drawn
    for prompt, same in ((0.0, True), (0.5, False)):
        method, canvases = diffu_grpo(**OPTIONS, prompt=prompt), []
        for steps in (0, 7):
            models.ledger.optimizer_steps = steps
            credited = method.credit(batch, models)
            views = method.views(credited, models)
            assert torch.equal(views["policy"].ids, views["reference"].ids)
            canvases.append(views["policy"].ids)
        assert torch.equal(*canvases) is same


def test_tokens_count_up_to_the_first_that_ends_the_text(drawn):
    models, batch = drawn
    weight = diffu_grpo(**OPTIONS).weigh(batch)
    ends = torch.isin(batch.ids, torch.tensor(sorted(models.policy.ends)))
    written = batch.take("canvas") == 1
    before = (ends & written).long().cumsum(1) - (ends & written).long()
    counted = written & (before == 0)
    assert torch.equal(weight > 0, counted) and int(counted.sum()) < int(written.sum())
    assert torch.allclose(weight[counted], 1 / counted.sum())


def test_one_answer_is_no_group():
    with pytest.raises(ValueError, match="n=1"):
        diffu_grpo(n=1)


def test_every_update_on_a_rollout_reads_canvases_of_its_own(drawn):
    """Each is compared with what the first weights said of the same canvas, by shuffled rows too."""
    models, batch = drawn
    method = diffu_grpo(**{**OPTIONS, "epochs": 3}, prompt=0.5, kl=0.0)
    batch = method.credit(batch, models)
    before = batch.take("before")
    seen = []
    for epoch in range(3):
        turn = batch.put(epoch=torch.full_like(batch.group, epoch))
        view = method.views(turn, models)["policy"]
        seen.append(view.ids)
        logp = models.score(view, turn).logp.detach()
        assert torch.equal(logp, before[..., epoch])
        back = turn.select(list(reversed(range(len(turn)))))
        again = models.score(method.views(back, models)["policy"], back).logp.detach()
        assert torch.allclose(again.flip(0), logp, rtol=1e-12)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
