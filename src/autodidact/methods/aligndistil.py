from __future__ import annotations

from dataclasses import replace

import torch

from autodidact.divergence import Divergence
from autodidact.law import Law
from autodidact.losses.importance import Correct, corrected
from autodidact.losses.weights import sequence_mean
from autodidact.method import Method, factory
from autodidact.rollouts.mixture import partly
from autodidact.rollouts.sample import Sample
from autodidact.teachers import mixed
from autodidact.view import plain


@factory
def aligndistil(
    n: int = 1,
    length: int = 1024,
    teacher: str = "initial",
    reverse: str = "initial",
    beta: float = 0.1,
    reach: float = 15.0,
    least: float = 1e-3,
    on_policy: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """Alignment as distillation: away from a reversed DPO model, as far as each token warrants.

    z* = z_dpo + w (z_dpo - z_rev),  w_t = reach ||pi_dpo - pi_rev||_1 + least at token t;
    L = mean over rows of (1/T) sum_t (beta / w_t) KL(p_t || softmax z*_t).
    By its theorem 1 the gradient of KL(p || softmax z*) is minus that of
    E_p[(1 + w) log(pi_dpo / pi_rev)] - KL(p || pi_rev): RLHF with a DPO reward, token by token.

    Source: AlignDistil: Token-Level Language Model Alignment as Adaptive Policy Distillation,
    arXiv 2503.02832. w has the whole L1 distance, as in the release.
    Needs: `solution` where on_policy < 1. Detached: both teachers, w, the sampling.
    Shapes: one value per own token.
    Raises: ValueError on a number that is not positive, on vocabularies of different size or
    logits with a soft cap, and on what `gkd` refuses of on_policy and correct.
    Degenerates to: reverse distillation to the DPO model where both teachers agree, with the
    weight beta / least: a large one, on tokens about which they have nothing to say.

    Args:
        teacher: folder of a model trained by DPO from the student's beginning.
        reverse: folder of one trained on the same pairs with chosen and rejected exchanged.
        beta: of the loss as a whole.
        reach: how far the teachers' difference leads beyond (15 in the paper): w is up to twice it.
        least: the least w.
        on_policy: the share of rows that the student writes; the others are given solutions.
        correct, cap: as in `opsd`.
    """
    for name, value in {"beta": beta, "reach": reach, "least": least}.items():
        if not value > 0:
            raise ValueError(f"{name}={value} is not allowed: it must be positive")
    if correct is not None and on_policy != 1:
        raise ValueError(f"correct={correct!r} needs on_policy=1, as no law drew given tokens")

    def views(batch, models):
        teachers = {"teacher": teacher, "reverse": reverse}
        seen = {name: plain(batch, role, grad=False) for name, role in teachers.items()}
        return {"policy": plain(batch), **seen}

    def loss(scores, batch):
        dpo, away = scores["teacher"], scores["reverse"]
        with torch.no_grad():
            far = reach * 2 * dpo.divergence(away, Divergence("tv")) + least
        target = mixed([dpo, away], [1 + far, -far])
        policy = replace(scores["policy"], weight=None)  # w makes it another sum
        return beta / far * policy.divergence(target, Divergence("reverse"))

    return Method(
        partly(Sample(n, length, Law(temperature, top_k, top_p)), on_policy),
        corrected(loss, correct, cap),
        views=views,
        weigh=sequence_mean,
        needs=() if on_policy == 1 else ("solution",),
        stale=correct is not None,
        signal_name="weighted divergence to the extrapolated DPO model (nats)",
    )
