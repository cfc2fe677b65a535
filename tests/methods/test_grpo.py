"""grpo: group advantages, 1/T_i weights, the clipped ratio and k3, each by hand."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.losses.policy import clipped, k3
from autodidact.methods.grpo import grpo
from toys import about, random_logits, rows_of


def test_advantages_of_binary_rewards_have_a_closed_form():
    """With pass rate p, A+ = (1-p)/(s+eps), A- = -p/(s+eps), s^2 = p(1-p) n/(n-1)."""
    n = 8
    for right in range(1, n):
        p = right / n
        batch = grpo(n=n).credit(rows_of([2] * n, [1.0] * right + [0.0] * (n - right)), None)
        s = math.sqrt(p * (1 - p) * n / (n - 1)) + 1e-4
        advantage = batch.take("advantage")[:, 1]
        assert advantage[:right].tolist() == pytest.approx([(1 - p) / s] * right, rel=1e-6)
        assert advantage[right:].tolist() == pytest.approx([-p / s] * (n - right), rel=1e-6)
        assert float(advantage.sum()) == pytest.approx(0, abs=1e-5)


def test_rows_without_a_reward_are_left_out_of_their_group():
    batch = rows_of([1, 2, 1, 1], [1.0, math.nan, 0.0, 0.25])
    found = grpo(n=4).credit(batch, None).take("advantage")
    alone = grpo(n=3).credit(rows_of([1, 1, 1], [1.0, 0.0, 0.25]), None).take("advantage")
    assert not found[1].any()
    assert torch.allclose(found[[0, 2, 3], 1], alone[:, 1], rtol=1e-7)


@pytest.mark.parametrize("reward", [0.1, 0.3, 0.7, 1 / 3])
@pytest.mark.parametrize("n", [3, 6, 7, 8, 16])
def test_equal_rewards_have_exactly_no_advantage_in_float32(n, reward):
    """A mean rounded in float32 leaves about 1e-4, which AdamW turns into a whole step."""
    batch = rows_of([1] * n)
    batch = batch.put(reward=torch.full((n,), reward, dtype=torch.float32))
    for scale in ("std", "none"):
        assert not grpo(n=n, scale=scale).credit(batch, None).take("advantage").any()


def test_at_ratio_one_the_gradient_is_that_of_the_advantage_times_logp_over_each_length():
    """L = -(1/B) sum_i (1/T_i) sum_t A_i log p at the old policy."""
    method = grpo(n=3)
    lengths, rewards = [4, 1, 2], [1.0, 0.0, 0.25]
    batch = rows_of(lengths, rewards)
    logits = random_logits(7, 3)
    scores = about(batch, logits)
    batch = method.credit(batch.put(raw=scores.logp.detach()), None)
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    found = torch.autograd.grad(loss, logits)[0]

    mean = sum(rewards) / 3
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 2)
    expected, place = torch.zeros(7, 3, dtype=torch.float64), 0
    targets = batch.ids[batch.own]
    for length, reward in zip(lengths, rewards, strict=True):
        for _ in range(length):
            onehot = torch.nn.functional.one_hot(targets[place], 3)
            scale = (reward - mean) / (std + 1e-4) / length / 3
            expected[place] = -scale * (onehot - logits[place].softmax(-1)).detach()
            place += 1
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)
    weighted = -sum((r - mean) / (std + 1e-4) for r in rewards) / 3
    assert float(loss.detach()) == pytest.approx(weighted, abs=1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.5, 1.0, -1.3, 0.0),  # good, already likelier: clipped at 1 + 0.3
        (1.5, -1.0, 1.5, 1.5),  # bad, likelier: the whole push down
        (0.5, 1.0, -0.5, -0.5),  # good, less likely: the whole push up
        (0.5, -1.0, 0.8, 0.0),  # bad, already less likely: clipped at 1 - 0.2
        (1.1, 2.0, -2.2, -2.2),  # inside
        (0.9, -2.0, 1.8, 1.8),
    ],
)
def test_clipping_by_hand(ratio, advantage, value, slope):
    logp = torch.tensor([[math.log(ratio) - 2.0]], dtype=torch.float64, requires_grad=True)
    old, a = torch.full_like(logp, -2.0), torch.full_like(logp, advantage)
    found = clipped(logp, old, a, 0.2, 0.3)
    assert found.item() == pytest.approx(value, rel=1e-12)
    assert torch.autograd.grad(found.sum(), logp)[0].item() == pytest.approx(slope, rel=1e-12)


def test_the_kl_term_is_added_to_every_token():
    batch = rows_of([3, 2], [1.0, 0.0])
    policy, reference = random_logits(5, 3), random_logits(5, 3, seed=1)
    scores = {"policy": about(batch, policy), "reference": about(batch, reference)}
    batch = grpo(n=2).credit(batch.put(raw=scores["policy"].logp.detach()), None)
    with_kl, without = (grpo(n=2, kl=kl).loss(scores, batch) for kl in (0.04, 0.0))
    extra = 0.04 * k3(scores["policy"].logp, scores["reference"].logp)
    assert torch.allclose((with_kl - without)[batch.own], extra[batch.own], atol=1e-12)
    assert extra[batch.own].min() > 0


def test_each_way_to_normalise_sums_to_its_total():
    batch = rows_of([4, 1, 3])
    found = {
        kind: grpo(n=3, length=10, normalise=kind).weigh(batch).sum(1)
        for kind in ("sequence", "token", "constant")
    }
    assert found["sequence"].tolist() == pytest.approx([1 / 3] * 3)
    assert found["token"].tolist() == pytest.approx([4 / 8, 1 / 8, 3 / 8])
    assert found["constant"].tolist() == pytest.approx([4 / 30, 1 / 30, 3 / 30])


def test_one_answer_is_no_group():
    with pytest.raises(ValueError, match="n=1"):
        grpo(n=1)


def test_the_constant_beside_the_std_is_the_one_given():
    batch = rows_of([1, 1], [1.0, 0.0])
    for eps in (1e-4, 1e-6, 1e-9):
        found = grpo(n=2, eps=eps).credit(batch, None).take("advantage")[0, 1]
        assert float(found) == pytest.approx(0.5 / (math.sqrt(0.5) + eps), rel=1e-12)


def test_rows_that_ran_out_of_length_weigh_nothing_and_count_in_the_mean():
    """The advantages and denominators stay: the other rows' weights are what they were."""
    batch = rows_of([4, 1, 3], [1.0, 0.0, 0.25]).put(finished=torch.tensor([0.0, 1.0, 1.0]))
    for kind in ("sequence", "token", "constant", "sum"):
        masked, whole = (
            grpo(n=3, length=10, normalise=kind, mask_truncated=mask) for mask in (True, False)
        )
        a, b = (method.credit(batch, None).take("advantage") for method in (masked, whole))
        assert torch.equal(a, b) and a[0].any()
        assert not masked.weigh(batch)[0].any()
        assert torch.equal(masked.weigh(batch)[1:], whole.weigh(batch)[1:])


def test_an_unknown_way_to_normalise_names_the_nearest():
    with pytest.raises(ValueError, match="sequence"):
        grpo(normalise="sequences")
