from __future__ import annotations

import torch

from autodidact.credits.group import group_advantage
from autodidact.credits.scaling import token_group_mean_std
from autodidact.law import Law
from autodidact.losses.importance import Correct, Correction, both_laws
from autodidact.losses.policy import clipped
from autodidact.method import Method, factory
from autodidact.rollouts.heated import Heating, heated, of_batch

EXTREME = 5.0
"""Advantages over tokens of this size send their group back to those over rows (the release)."""


@factory
def hapo(
    n: int = 16,
    length: int = 1024,
    clip: float = 0.2,
    clip_high: float = 0.2,
    gain: float = 0.05,
    share: float = 0.8,
    dual: float = 10.0,
    epochs: int = 1,
    waves: int = 3,
    temperature: float = 1.0,
    correct: Correct | None = "token",
    cap: float = 2.0,
    legacy_sign: bool = False,
) -> Method:
    """Heterogeneous Adaptive Policy Optimization: temperature, advantage and clips by entropy.

    h in [-1, 1] stands for log H: 0 at its quantile `share` over the batch, 1 and -1 at the
    extremes. Tokens are drawn at T (1 + gain h), with the quantiles of the batch before;
    A = w (R - mean) / (std + 1e-6) over the tokens of the group (std with n), that of `grpo` in a
    group where any is 5 or larger, w = min(p_T / mu, cap) the weight of what was heated;
    A_t = A (1 + h) where h > 0 and rho lies outside 1 - clip/2 and 1 + clip_high/2, or h <= 0 and
    rho lies inside; else A;
    L = -(1/sum_i T_i) sum_i sum_t min(rho A_t, clip(rho, 1 - clip (1 + |h-|), 1 +
    clip_high (1 + h+)) A_t), at most dual |A_t| for A_t < 0; rho = p / p_T at sampling.

    Source: From Uniform to Heterogeneous, arXiv 2509.16591, after its repository. There h is
    divided by the minimum itself, so that it is never negative: `legacy_sign`. w is not of it.
    Needs: `answer`. Detached: h, A_t, the clips. Shapes: one value per own token.
    Raises: ValueError for n < 2, and as `Heating` and `Correction`; an engine outside of the
    library refuses the law.
    Degenerates to: `dapo` with advantages over tokens where all h are 0.

    Args:
        gain: of the temperature; 0 draws as `dapo` does.
        share: quantile of the log entropies that separates sure tokens from unsure ones.
        dual: the loss of a negative advantage is at most this times its size.
        waves: at most this many times the problems of a step are tried to fill it.
        correct, cap: which w, see `losses.importance`; None leaves it out.
        legacy_sign: h as released.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    weights = None if correct is None else Correction(correct, cap)

    def credit(batch, models):
        entropy, advantage = batch.take("entropy"), _over_tokens(batch)
        if weights is not None:
            drawn = weights.weights(batch.take("raw"), batch.take("logp"), batch.own)
            advantage = advantage * drawn
        place = heated(Law(), 0.0, of_batch(entropy, batch.own, share), legacy_sign)
        return batch.put(advantage=advantage, heat=place.heat(entropy) * batch.own)

    def loss(scores, batch):
        now, then = both_laws(scores["policy"], batch)
        heat, advantage = batch.take("heat"), batch.take("advantage")
        ratio = (now - then).detach().exp()
        inside = (ratio >= 1 - clip / 2) & (ratio <= 1 + clip_high / 2)
        size = torch.where((heat > 0) != inside, 1 + heat, 1.0)
        low, high = clip * (1 + (-heat).clamp(min=0)), clip_high * (1 + heat.clamp(min=0))
        return clipped(now, then, advantage * size, low, high, dual)

    return Method(
        Heating(n, length, Law(temperature), waves, gain, share, legacy_sign),
        loss,
        credit,
        needs=("answer",),
        epochs=epochs,
        signal=lambda scores, batch, values: batch.take("advantage"),
        signal_name="advantage before the entropy's share",
    )


def _over_tokens(batch):
    """Advantages over the tokens of a group, [B, T], or over its rows where those are large."""
    reward, own = batch.take("reward"), batch.own
    known = own & ~reward.isnan()[:, None]
    values = reward.nan_to_num()[:, None].expand(own.shape)
    mean, std = token_group_mean_std(values, known, batch.group)
    found = torch.where(known, (values - mean[:, None]) / (std[:, None] + 1e-6), 0.0)
    large = torch.isin(batch.group, batch.group[(found.abs() >= EXTREME).any(1)])
    return torch.where(large[:, None], group_advantage(batch, "std", 1e-6).take("advantage"), found)
