"""cispo: a cut weight in front of log p, with a gradient for every token."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact.methods.cispo import cispo
from autodidact.methods.grpo import grpo
from autodidact.rollouts.choose import WithSpread
from toys import about, random_logits, rows_of


def gradient(method, ratio: float):
    """In the logits of three rows, every token at this ratio."""
    batch, logits = rows_of([4, 1, 3], [1.0, 0.0, 0.25]), random_logits(8, 3)
    scores = about(batch, logits)
    old = scores.logp.detach() - math.log(ratio) * batch.own.double()
    batch = method.credit(batch.put(raw=old), None)
    loss = (method.loss({"policy": scores}, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, logits)[0]


def test_at_ratio_one_it_is_grpo_with_a_mean_over_tokens():
    """(checked) And that is REINFORCE."""
    plain = gradient(grpo(n=3, normalise="token"), 1.0)
    assert plain.abs().max() > 0.01
    assert torch.allclose(gradient(cispo(n=3), 1.0), plain, rtol=1e-10, atol=1e-14)


def test_where_a_clip_silences_good_tokens_the_cap_keeps_them():
    """(checked) At ratio 1.65 and A > 0: PPO's gradient is 0, CISPO's that of the cap."""
    silenced = gradient(grpo(n=3, normalise="token"), 1.65)
    kept = gradient(cispo(n=3, clip_high=0.2), 1.65)
    once = gradient(cispo(n=3), 1.0)
    assert not silenced[:4].any()
    assert torch.allclose(kept, 1.2 * once, rtol=1e-10)


@pytest.mark.parametrize(
    ("ratio", "weight", "options"),
    [
        (4.5, 4.5, {}),
        (7.0, 5.0, {}),  # TRL's epsilon_high = 5.0
        (0.01, 0.01, {}),  # nothing below
        (0.01, 0.8, {"clip": 0.2}),
        (0.01, 0.01, {"clip": 10.0}),  # verl's way to say nothing below
        (7.0, 1.2, {"clip": 10.0, "clip_high": 0.2}),
    ],
)
def test_the_cap_and_what_it_is_called_elsewhere(ratio, weight, options):
    found = gradient(cispo(n=3, **options), ratio)
    assert torch.allclose(found, weight * gradient(cispo(n=3), 1.0), rtol=1e-9)


def test_groups_without_spread_are_replaced_where_asked():
    assert isinstance(cispo(waves=3).rollout, WithSpread)
    with pytest.raises(ValueError, match="n=1"):
        cispo(n=1)
