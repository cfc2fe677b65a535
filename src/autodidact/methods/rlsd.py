from __future__ import annotations

import torch

from autodidact.contexts import Context, ContextKind
from autodidact.credits.group import Scale, group_advantage
from autodidact.law import Law
from autodidact.losses.importance import both_laws
from autodidact.losses.policy import clipped
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain


@factory
def rlsd(
    n: int = 8,
    length: int = 1024,
    share: float = 0.5,
    width: float = 0.2,
    clip: float = 0.2,
    clip_high: float | None = None,
    scale: Scale = "std",
    normalise: Normalise = "sequence",
    epochs: int = 1,
    teacher: str = "policy",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    context: ContextKind = "solution",
    text: str | None = None,
) -> Method:
    """RLVR with self-distillation: the verifier says which way, the privileged teacher how far.

    A_t = A [(1 - share) + share clip((q(y_t) / p(y_t))^sign A, 1 - width, 1 + width)], A the
    group advantage of `grpo` and q the teacher's law;
    L = -(1/B) sum_i (1/T_i) sum_t min(rho A_t, clip(rho, 1-clip, 1+clip_high) A_t), rho = p / mu.

    Source: Self-Distilled RLVR, arXiv 2604.03128; reconstructed from its ports: its share of the
    teacher changes over the run, which is left out.
    Needs: `answer`, and what the context tells. Detached: A_t, so the teacher and p within it.
    Shapes: one value per own token.
    Raises: ValueError for n < 2, a share outside 0 to 1, a width not between 0 and 1, and before
    the run on problems without answers.
    Degenerates to: `grpo` for share=0, or where the teacher is told nothing; no sign is ever
    turned, and nothing is learned from a group whose rewards are equal.

    Args:
        share: how much of the advantage the teacher scales.
        width: bounds of its scale: 1 - width and 1 + width.
        clip, clip_high, scale, normalise: as in `grpo`.
        teacher, context, text: as in `opsd`; the live weights by default.
    """
    if n < 2:
        raise ValueError(f"n={n}: a group needs at least 2 completions to compare")
    if not (0 <= share <= 1 and 0 < width < 1):
        raise ValueError(
            f"share={share} and width={width}: a share is from 0 to 1, a width between 0 and 1"
        )
    high = clip if clip_high is None else clip_high
    told, judge = Context(context, text), Teacher.parse(teacher)

    def credit(batch, models):
        return told.tell(group_advantage(batch, scale), models)

    def views(batch, models):
        return {"policy": plain(batch), **judge.views(batch, models, told.prompts(batch))}

    def sized(scores, batch):
        """A_t: rows without anything told keep A."""
        plainly = batch.take("advantage")
        gap = judge.scores(scores).logp.detach() - scores["policy"].logp.detach()
        size = (plainly.sign() * gap).exp().clamp(1 - width, 1 + width)
        known = batch.own * batch.take("told")[:, None]
        return plainly * (1 + share * torch.where(known > 0, size - 1, 0.0))

    def loss(scores, batch):
        now, then = both_laws(scores["policy"], batch)
        return clipped(now, then, sized(scores, batch), clip, high) * batch.own

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        loss,
        credit,
        views,
        normalised(normalise, length),
        needs=("answer", *(field for field in told.needs if field != "answer")),
        epochs=epochs,
        stale=True,
        signal=lambda scores, batch, values: sized(scores, batch),
        signal_name="advantage",
    )
