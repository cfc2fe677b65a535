"""Networks beside the policy: what they read, how they learn, and that they come back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from autodidact import checkpoint
from autodidact.auxiliary import Auxiliary, states
from autodidact.grade import grade
from autodidact.learn import learn
from autodidact.methods.ppo import ppo
from autodidact.methods.rft import rft
from autodidact.methods.tvm import tvm
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.train import Training
from autodidact.view import plain, read_to
from toys import padded, perturb, random_qwen, taught, toy_task


@pytest.fixture
def case(qwen):
    models, task = Models(qwen), toy_task(8)
    return models, grade(Sample(2, 6)(task.train, models, task, 1), models)


def reads(batch, lm):
    """Every layer's states of each row read alone: [rows][layer] -> [T, D]."""
    found = []
    for ids, real in zip(batch.ids, batch.real, strict=True):
        with torch.no_grad():
            out = lm.base(ids[real][None], output_hidden_states=True)
        found.append([each[0] for each in out.hidden_states])
    return found


@pytest.mark.parametrize(("where", "shift"), [("before", 1), ("after", 0)])
@pytest.mark.parametrize("role", ["policy", "initial"])
def test_states_are_those_before_or_after_each_own_token(case, role, where, shift):
    models, batch = case
    assert models["initial"]
    perturb(models.policy)
    last = states(batch, models, role, where)
    deep = states(batch, models, role, where, (0.0, 0.5, 1.0))
    assert not last.requires_grad and not last[~batch.own].any() and not deep[~batch.own].any()
    for row, layers in enumerate(reads(batch, models[role])):
        columns = batch.own[row].nonzero().flatten()
        assert torch.allclose(last[row, columns], layers[-1][columns - shift], atol=1e-10)
        expected = torch.cat([layer[columns - shift] for layer in layers], -1)
        assert torch.allclose(deep[row, columns], expected, atol=1e-10)


def test_a_state_after_a_token_is_the_one_before_the_next(case):
    models, batch = case
    before, after = (states(batch, models, where=where) for where in ("before", "after"))
    follows = batch.own[:, 1:] & batch.own[:, :-1]
    assert torch.allclose(before[:, 1:][follows], after[:, :-1][follows], atol=1e-10)
    assert (before - after)[batch.own].abs().amax(-1).min() > 1e-3


def test_what_is_asked_after_a_token_is_at_its_own_column(case):
    _, batch = case
    view = read_to(batch, "initial")
    assert torch.equal(view.asked, batch.own) and not view.grad
    assert torch.equal(view.at[batch.own] - 1, plain(batch).at[batch.own])


def test_depths_are_shares_of_the_layers(case):
    models, batch = case
    view, spent = plain(batch, "initial"), models.ledger.teacher_forward
    found = models.depths(view, (0.25, 0.5, 0.75))
    assert found.shape == (int(batch.own.sum()), 3, 16) and not found.requires_grad
    known = models.depths(view, (0.0, 0.5, 1.0))  # round halves to even: 0.5 -> 0, 1.5 -> 2
    assert torch.equal(found, known)
    assert models.ledger.teacher_forward - spent == 2 * int(batch.real.sum())
    assert torch.allclose(known[:, 2], models.score(view, batch).hidden, atol=1e-12)


def squared(network, batch):
    return (network(batch.take("value_states")).squeeze(-1) - batch.take("goal")) ** 2


SMALL = Auxiliary(
    "small", lambda size: torch.nn.Linear(size, 1), squared,
    lambda batch: batch.own.double() / batch.own.sum(), 1e-2,
)  # fmt: skip


def given(case):
    """A batch with what `SMALL` reads."""
    models, batch = case
    goal = batch.take("reward")[:, None].expand(batch.own.shape).double()
    batch = batch.put(value_states=states(batch, models), goal=goal)
    return models, batch.put(weight_small=SMALL.weigh(batch))


def test_an_update_is_adamw_of_the_gradient_of_the_whole_batch(case):
    models, batch = given(case)
    trained = models.trained(SMALL)
    weight, bias = (p.detach().clone() for p in trained.network.parameters())
    x, y = batch.take("value_states")[batch.own], batch.take("goal")[batch.own]
    error = x @ weight[0] + bias - y
    slope = (2 * error[:, None] * x).mean(0)
    loss = taught(trained, SMALL, [batch], 0)
    assert loss == pytest.approx(float((error**2).mean()), rel=1e-9)
    expected = weight[0] * (1 - 1e-2 * 1e-2) - 1e-2 * slope / (slope.abs() + 1e-8)
    found = next(trained.network.parameters())[0]
    assert torch.allclose(found, expected, atol=1e-12) and trained.updates == 1


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_pieces_and_padding_do_not_matter(case, rows):
    models, batch = given(case)
    found = []
    wide = padded(batch)
    wide = wide.put(weight_small=SMALL.weigh(wide))
    for pieces in ([batch], batch.split(rows), [wide]):
        models.auxiliaries.clear()
        trained = models.trained(SMALL)
        loss = [taught(trained, SMALL, pieces, 0.1) for _ in range(3)]
        found.append(
            [*loss, *torch.cat([p.detach().flatten() for p in trained.network.parameters()])]
        )
    for other in found[1:]:
        assert [float(x) for x in other] == pytest.approx([float(x) for x in found[0]], rel=1e-9)


def test_a_network_is_drawn_under_its_own_seed_and_the_global_generator_stands_still(case):
    models, batch = given(case)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = models.trained(SMALL)
    taught(one, SMALL, [batch], 1.0)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    two, three = (
        Models(models.policy).trained(replace(SMALL, seed=seed)).network.weight for seed in (0, 1)
    )
    assert not torch.equal(two, three) and two.dtype == torch.float64
    torch.manual_seed(7)
    assert torch.equal(two, Models(models.policy).trained(SMALL).network.weight)
    assert models.trained(SMALL) is one


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(case, bad):
    """Neither the network nor the policy beside it; it is logged as it was, and the place named."""
    models, batch = case
    spoiled = [False]

    def credit(batch, models):
        goal = batch.take("reward")[:, None].expand(batch.own.shape).double()
        return batch.put(value_states=states(batch, models), goal=goal)

    def loss(network, batch):
        values = squared(network, batch)
        return values * bad if spoiled[0] else values

    method = replace(rft(2, 6), credit=credit, auxiliaries=(replace(SMALL, loss=loss),))
    weights = list(models.policy.model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    run = Run(steps=1, rows=len(batch), micro_rows=3)
    assert learn(method, models, batch, optimizer, run)["loss_small"] > 0
    trained = models.trained(method.auxiliaries[0])

    def state():
        return [x.clone() for x in (*weights, *trained.network.parameters())] + [
            x.clone()
            for one in (optimizer, trained.optimizer)
            for each in one.state_dict()["state"].values()
            for x in each.values()
        ]

    before, spoiled[0] = state(), True
    measured = learn(method, models, batch, optimizer, run)
    assert all(map(torch.equal, before, state())) and trained.updates == 1
    assert measured["skipped"] == 1 and math.isfinite(measured["loss"])
    assert not math.isfinite(measured["loss_small"])
    [*_, place] = measured["fault"]["found"]
    assert place["tensor"] == "gradient of the network 'small'"
    spoiled[0] = False
    assert learn(method, models, batch, optimizer, run)["skipped"] == 0 and trained.updates == 2


def test_a_batch_teaches_the_network_once_whatever_the_epochs(case):
    models, batch = case
    method = replace(ppo(2, 6, value_lr=1e-2), epochs=3)
    optimizer = torch.optim.SGD(models.policy.model.parameters(), lr=0.0)
    measured = learn(method, models, batch, optimizer, Run(steps=1, rows=len(batch)))
    assert models.ledger.optimizer_steps == 3 and models.trained(method.auxiliaries[0]).updates == 1
    assert measured["loss_value"] > 0


def training(tokenizer, method):
    run = Run(steps=4, rows=8, lr=1e-2, micro_rows=3)
    return Training(method, Models(random_qwen(tokenizer)), toy_task(8), run)


def begun(training):
    """As a session does before it goes on: the roles that lasting views name are there."""
    method, task = training.method, training.task
    batch = Sample(1, 2)(task.train[:1], training.models, task, 0)
    with training.models.uncharged():
        method.views(batch, training.models)
    training.models.ledger = type(training.models.ledger)()
    return training


@pytest.mark.parametrize("make", [lambda: ppo(2, 5, kl=0.1, value_lr=1e-2), lambda: tvm(4, 5)])
def test_a_training_goes_on_from_a_checkpoint_bit_by_bit(tokenizer, make, tmp_path):
    whole = training(tokenizer, make())
    lines = [whole.advance()[1] for _ in range(4)]
    first = training(tokenizer, make())
    for _ in range(2):
        first.advance()
    path = checkpoint.save(first, tmp_path)
    checkpoint.verify(path)
    second = begun(training(tokenizer, make()))
    torch.manual_seed(1234)
    checkpoint.restore(second, path)
    (name,) = second.models.auxiliaries
    assert second.models.auxiliaries[name].updates == 2
    again = [second.advance()[1] for _ in range(2)]
    for one, two in zip(lines[2:], again, strict=True):
        for line in (one, two):
            line["ledger"] = {
                k: v for k, v in line["ledger"].items() if k not in ("seconds", "peak_bytes")
            }
        assert one == two
    ends = [each.models.auxiliaries[name] for each in (whole, second)]
    for left, right in zip(*(each.network.parameters() for each in ends), strict=True):
        assert torch.equal(left, right)
    left, right = (each.optimizer.state_dict()["state"][0] for each in ends)
    assert all(torch.equal(left[key], right[key]) for key in left) and ends[0].updates == 4
    policies = [each.models.policy.model.parameters() for each in (whole, second)]
    assert all(torch.equal(*pair) for pair in zip(*policies, strict=True))
