"""degrpo: the control token apart from what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.methods.degrpo import degrpo
from autodidact.methods.grpo import grpo
from autodidact.models import Models
from toys import about, random_logits, rows_of

LENGTHS = [4, 1, 3, 2]
OPTIONS = {"n": 4, "short": "S", "think": "T", "kl": 0.0}


def case(qwen, modes="SSTT", correct=(1.0, 0.0, 1.0, 0.0), prompt: int = 1):
    """One group whose rows begin with these letters."""
    batch = rows_of(LENGTHS, prompt=prompt)
    ids = batch.ids.clone()
    ids[:, prompt] = torch.tensor([qwen.encode(letter)[0] for letter in modes])
    right = torch.tensor(correct, dtype=torch.float64)
    return replace(batch, ids=ids).put(correct=right, reward=right)


def scored(batch, seed: int = 0):
    """Logits of three words for each own token, and scores that take the ids as they come."""
    logits = random_logits(sum(LENGTHS), 3, seed=seed)
    return logits, about(replace(batch, ids=batch.ids % 3), logits)


def gradient(method, batch) -> torch.Tensor:
    logits, scores = scored(batch)
    batch = batch.put(raw=scores.logp.detach())
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize(
    ("modes", "correct", "rewards"),
    [
        ("SSTT", (1, 0, 1, 0), [1.0, -1.0, 0.5, -1.0]),
        ("SxTy", (1, 1, 1, 1), [1.0, -1.0, 0.5, -1.0]),  # no mode is wrong
        ("TTTT", (1, 1, 0, 1), [0.5, 0.5, -1.0, 0.5]),
    ],
)
def test_rewards_by_mode(qwen, modes, correct, rewards):
    method = degrpo(**OPTIONS)
    found = method.credit(case(qwen, modes, correct), Models(qwen))
    assert found.take("reward").tolist() == rewards
    mean = sum(rewards) / 4
    expected = torch.tensor([r - mean for r in rewards], dtype=torch.float64)
    assert torch.allclose(found.take("advantage"), expected[:, None] * found.own, atol=1e-12)


def test_control_and_later_tokens_have_one_advantage_and_a_terse_policy_can_be_slowed(qwen):
    found = degrpo(**OPTIONS, thought=0.8).credit(case(qwen), Models(qwen))
    advantage = found.take("advantage")
    for row in range(4):
        assert len(set(advantage[row][found.own[row]].tolist())) == 1
    assert found.take("reward")[2] == pytest.approx(0.8)


def test_a_row_that_was_not_judged_is_left_out(qwen):
    nan = float("nan")
    batch = degrpo(**OPTIONS).credit(case(qwen, correct=(1.0, 0.0, nan, 0.0)), Models(qwen))
    assert not batch.take("advantage")[2].any()
    assert batch.take("advantage")[0, 1] == pytest.approx(1 - (1 - 1 - 1) / 3)


def test_weights_by_hand(qwen):
    batch, alpha = case(qwen), 0.3
    later = [size - 1 for size in LENGTHS]
    ways = {
        "sequence": [1 / 4 / max(size, 1) for size in later],
        "token": [1 / sum(later)] * 4,
        "constant": [1 / 4 / 10] * 4,
    }
    for kind, each in ways.items():
        weight = degrpo(**OPTIONS, alpha=alpha, length=10, normalise=kind).weigh(batch)
        for row, size in enumerate(LENGTHS):
            expected = [0.0, alpha / 4, *[each[row]] * (size - 1), *[0.0] * (4 - size)]
            assert weight[row].tolist() == pytest.approx(expected)


def test_with_alpha_as_the_share_of_control_tokens_it_is_grpo_over_tokens(qwen):
    """alpha = n_c / n_r: the gradient is that of the mean over tokens times (n_c + n_r) / n_r."""
    control, later = 4, sum(LENGTHS) - 4
    ours = degrpo(**OPTIONS, alpha=control / later, normalise="token")
    batch = ours.credit(case(qwen), Models(qwen))
    base = grpo(4, scale="none", normalise="token")
    usual = base.credit(batch, None)
    assert torch.equal(usual.take("advantage"), batch.take("advantage"))
    expected = gradient(base, usual) * (control + later) / later
    # The weights are float32.
    assert torch.allclose(gradient(ours, batch), expected, rtol=1e-6)


@pytest.mark.parametrize("normalise", ["sequence", "token"])
def test_alpha_zero_leaves_the_choice_of_the_mode_alone(qwen, normalise):
    batch = case(qwen)
    first = (batch.own.cumsum(1) == 1)[batch.own]
    found = {}
    for alpha in (0.0, 0.5):
        method = degrpo(**OPTIONS, alpha=alpha, normalise=normalise)
        found[alpha] = gradient(method, method.credit(batch, Models(qwen)))
    assert not found[0.0][first].any() and found[0.5][first].abs().sum(1).gt(1e-4).all()
    assert torch.equal(found[0.0][~first], found[0.5][~first])
    assert found[0.0][~first].abs().max() > 1e-3


def test_the_gradient_of_the_mode_does_not_depend_on_the_length_of_the_answer(qwen):
    """Plain GRPO gives it 1 / T_i, more for a short answer."""
    method = degrpo(**OPTIONS, alpha=0.01)
    weight = method.weigh(case(qwen))
    assert len(set(weight[:, 1].tolist())) == 1
    assert len(set(grpo(4).weigh(case(qwen))[:, 1].tolist())) == 4


def test_a_control_text_must_be_one_token(qwen):
    batch = case(qwen)
    for text, count in (("<short>", 7), ("", 0)):
        with pytest.raises(ValueError, match=f"is {count} tokens"):
            degrpo(**{**OPTIONS, "short": text}).credit(batch, Models(qwen))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 1}, "at least 2"),
        ({"alpha": -0.1}, r"alpha=-0\.1"),
        ({"short": "<think>"}, "two modes need two tokens"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        degrpo(**arguments)
