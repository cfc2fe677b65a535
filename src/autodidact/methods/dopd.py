from __future__ import annotations

from dataclasses import replace

import torch

from autodidact.contexts import Context, ContextKind
from autodidact.divergence import Divergence, Support
from autodidact.law import Law
from autodidact.losses.importance import Correct, corrected
from autodidact.losses.weights import told_mean
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain, reread


@factory
def dopd(
    n: int = 1,
    length: int = 1024,
    gap: float = 1.0,
    sure: float = 0.5,
    light: float = 0.1,
    weak: float = 0.01,
    k: int = 2,
    teacher: str = "initial",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "solution",
    text: str | None = None,
) -> Method:
    """Dual on-policy distillation: follow a teacher who can more, not one who is told more.

    The teacher q and the student itself, s, read the same privileged prompt, so that what they
    differ by at a token y_t ~ p(.|x) is ability. L = mean over tokens of one of

    |log q/s| >= gap, q > s    JSD(p, q), the whole vocabulary
    |log q/s| >= gap, q < s    light KL(p||s), top-k       the student knows better
    |log q/s| < gap, sure      light KL(p||q), top-k       max(q, s) at y_t is at least `sure`
    |log q/s| < gap, unsure    weak KL(p||s), top-k

    Source: DOPD: Dual On-policy Distillation, arXiv 2606.30626; reconstructed from its abstract
    and a port. That port takes a copy of p for s, whose divergence to p has no gradient.
    Needs: what `context` tells. Detached: q, s, the routes, the sampling.
    Shapes: one value per own token, in nats; the top-k is the student's, with a tail.
    Raises: ValueError as `opsd`, for a gap not above 0, and for negative weights.
    Degenerates to: zero when q and s have the student's weights and are told nothing.

    Args:
        gap: nats from which a difference is large.
        sure: probability of the token from which one is sure of it.
        light, weak: weights of the light and of the weak routes.
        k: words of their lists.
        teacher: a folder with a better model of the same vocabulary; equal weights have no gap.
        correct, cap, context, text: as in `opsd`.
    """
    if not (gap > 0 and light >= 0 and weak >= 0):
        raise ValueError(
            f"gap={gap}, light={light}, weak={weak}: a gap must be above 0, a weight at least 0"
        )
    told, judge = Context(context, text), Teacher.parse(teacher)
    whole, listed = Divergence("jsd"), Divergence("reverse", support=Support("student", k))

    def views(batch, models):
        prompts = told.prompts(batch)
        seen = judge.views(batch, models, prompts)
        return {"policy": plain(batch), "told": reread(batch, models, prompts), **seen}

    def loss(scores, batch):
        policy = replace(scores["policy"], weight=None)  # the routes make it another sum
        own, judging = scores["told"], judge.scores(scores)
        kept, near = (policy.divergence(each, listed) for each in (own, judging))
        followed = policy.divergence(judging, whole)
        masks = _routes(judging.logp, own.logp, gap, sure)
        values = followed, light * kept, light * near, weak * kept
        return sum(mask * value for mask, value in zip(masks, values, strict=True))

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        told.tell,
        views=views,
        weigh=told_mean,
        needs=told.needs,
        stale=correct is not None,
        signal_name="routed divergence (nats)",
    )


def _routes(able: torch.Tensor, own: torch.Tensor, gap: float, sure: float) -> list[torch.Tensor]:
    """Which tokens take each route, in the order of the table, from log q and log s of each."""
    large, known = (able - own).abs() >= gap, able.maximum(own).exp() >= sure
    return [large & (able > own), large & (able <= own), ~large & known, ~large & ~known]
