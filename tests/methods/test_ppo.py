"""ppo: rewards of tokens, generalised advantages, what the value head learns, the dual clip."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact.credits.returns import gae
from autodidact.credits.value import Critic, TokenHead, token_rewards
from autodidact.grade import grade
from autodidact.methods.ppo import ppo
from autodidact.models import Models
from autodidact.view import plain
from toys import about, perturb, random_logits, rows_of, toy_task


@pytest.fixture
def case(qwen):
    """Models whose policy has moved, and a graded batch that it drew before."""
    models, task = Models(qwen), toy_task(6)
    batch = grade(ppo(2, 6).rollout(task.train, models, task, 1), models)
    assert models["initial"]
    perturb(models.policy)
    return models, batch


def test_token_rewards_are_the_log_ratio_to_the_initial_weights_and_the_reward_at_the_end(case):
    models, batch = case
    initial = models.score(plain(batch, "initial"), batch).logp
    found = token_rewards(batch, models, 0.3)
    for row in range(len(batch)):
        columns = batch.own[row].nonzero().flatten().tolist()
        for t in columns:
            expected = -0.3 * float(batch.take("raw")[row, t].double() - initial[row, t])
            expected += float(batch.take("reward")[row]) * (t == columns[-1])
            assert float(found[row, t]) == pytest.approx(expected, abs=1e-6)
    assert not found[~batch.own].any()


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_advantages_are_those_of_the_head_whitened_and_returns_are_before_it(case, head):
    models, batch = case
    method = ppo(2, 6, kl=0.2, gamma=0.9, lam=0.8, head=head)
    found = method.credit(batch, models)
    value = models.trained(method.auxiliaries[0]).network(found.take("value_states")) * batch.own
    assert torch.equal(found.take("value"), value.detach()) and float(value.detach().std()) > 0.02
    plainly, returns = gae(token_rewards(batch, models, 0.2), value.detach(), batch.own, 0.9, 0.8)
    assert torch.equal(found.take("returns"), returns)
    all_of_them = plainly[batch.own]
    white = (all_of_them - all_of_them.mean()) / (all_of_them.var(correction=0) + 1e-8).sqrt()
    advantage = found.take("advantage")
    assert torch.allclose(advantage[batch.own], white, rtol=1e-9)
    assert float(advantage[batch.own].mean()) == pytest.approx(0, abs=1e-12)
    assert float(advantage[batch.own].var(correction=0)) == pytest.approx(1, rel=1e-6)


def test_without_discount_advantages_are_the_reward_less_the_value(case):
    models, batch = case
    found = ppo(2, 6).credit(batch, models)
    gap = (batch.take("reward")[:, None] - found.take("value"))[batch.own]
    white = (gap - gap.mean()) / (gap.var(correction=0) + 1e-8).sqrt()
    assert torch.allclose(found.take("advantage")[batch.own], white, rtol=1e-6)
    returns = batch.take("reward")[:, None].expand(batch.own.shape)[batch.own].double()
    assert torch.allclose(found.take("returns")[batch.own], returns, atol=1e-12)


def test_a_row_without_a_reward_teaches_nothing(case):
    models, batch = case
    reward = batch.take("reward").clone()
    reward[1] = math.nan
    found = ppo(2, 6).credit(batch.put(reward=reward), models)
    rest = [row for row in range(len(batch)) if row != 1]
    alone = ppo(2, 6).credit(batch.select(rest), models).take("advantage")
    advantage = found.take("advantage")
    assert not advantage[1].any()
    assert torch.allclose(advantage[rest][:, : alone.shape[1]], alone, atol=1e-9)
    weight = Critic().weigh(found)
    assert not weight[1].any() and float(weight.sum()) == pytest.approx(1)


def value_batch():
    return rows_of(
        [2, 1], [1.0, 0.0], value=[0.0, 1.0, -1.0], returns=[0.3, 1.8, -1.2]
    )  # fmt: skip


class Says(torch.nn.Module):
    """A head whose values are its weights."""

    def __init__(self, batch, values):
        super().__init__()
        self.own, self.values = batch.own, torch.nn.Parameter(torch.tensor(values).double())

    def forward(self, states):
        return torch.zeros(self.own.shape).double().masked_scatter(self.own, self.values)


@pytest.mark.parametrize(
    ("clip", "values", "losses", "slopes"),
    [
        # Outside the clip, and by the clipped value still further off: no gradient.
        (0.5, [1.0, 1.75, -1.75], [0.245, 0.045, 0.15125], [0.7, 0.0, -0.55]),
        (None, [1.0, 1.75, -1.75], [0.245, 0.00125, 0.15125], [0.7, -0.05, -0.55]),
    ],
)
def test_the_value_loss_by_hand(clip, values, losses, slopes):
    batch = value_batch().put(value_states=torch.zeros(2, 3, 1))
    network = Says(batch, values)
    found = Critic(clip=clip).loss(network, batch)
    assert found[batch.own].tolist() == pytest.approx(losses, rel=1e-9)
    slope = torch.autograd.grad(found.sum(), network.values)[0]
    assert slope.tolist() == pytest.approx(slopes, abs=1e-12)


def test_at_ratio_one_the_gradient_is_the_advantage_times_that_of_logp():
    logits = random_logits(5, 3)
    batch = rows_of([3, 2], advantage=[1.0, -2.0, 0.5, -0.1, 3.0])
    scores = about(batch, logits)
    batch = batch.put(raw=scores.logp.detach())
    method = ppo()
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    expected = -(batch.take("advantage") * scores.logp).sum() / 5
    pair = [torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (loss, expected)]
    assert torch.allclose(*pair, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "value"),
    [(5.0, -1.0, 3.0, 3.0), (5.0, -1.0, None, 5.0), (2.0, -1.0, 3.0, 2.0), (5.0, 1.0, 3.0, -1.2)],
)
def test_the_dual_clip_bounds_the_loss_of_a_bad_token(ratio, advantage, dual, value):
    batch = rows_of([2], advantage=[advantage, 0.0])
    scores = about(batch, random_logits(2, 3))
    batch = batch.put(raw=scores.logp.detach() - math.log(ratio))
    found = ppo(dual=dual).loss({"policy": scores}, batch)
    assert float(found[0, 1].detach()) == pytest.approx(value, rel=1e-9)


def test_a_tool_inside_a_row_is_no_step(case):
    """The same tokens with some of them not the policy's: as if the row went past them."""
    models, batch = case
    long = batch.select([int(batch.own.sum(1).argmax())])
    first = int(long.own[0].int().argmax())
    own = long.own.clone()
    own[0, first + 1 : first + 3] = False
    cut = replace(long, own=own)
    method = ppo(2, 6, gamma=0.9, lam=0.8)
    found = method.credit(cut, models)
    value = found.take("value")[own]
    rewards = torch.zeros_like(value)
    rewards[-1] = long.take("reward")[0]
    expected = gae(rewards[None], value[None], torch.ones(1, len(value)).bool(), 0.9, 0.8)[1]
    assert torch.allclose(found.take("returns")[own], expected[0], atol=1e-12)


def test_the_roles_that_its_credit_reads_are_said():
    """A run makes them before its first update, and before it goes on from a checkpoint."""
    assert ppo(length=3, role="policy").roles == ("policy",)
    assert ppo(length=3, role="policy", kl=0.1).roles == ("policy", "initial")
    assert ppo(length=3, kl=0.1).roles == ("initial",)


def test_a_head_keeps_its_precision_over_coarser_states():
    head = TokenHead(4, "mlp")
    assert head(torch.ones(2, 3, 4, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        ppo(head="lineer")
