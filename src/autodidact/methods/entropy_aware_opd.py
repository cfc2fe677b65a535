from __future__ import annotations

from dataclasses import replace

import torch

from autodidact.contexts import Context, ContextKind
from autodidact.divergence import Divergence, Form, Support, Words
from autodidact.law import Law
from autodidact.losses.importance import Correct, corrected
from autodidact.losses.weights import told_mean
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain


@factory
def entropy_aware_opd(
    n: int = 1,
    length: int = 1024,
    unsure: float = 0.8,
    forward: float = 1.0,
    teacher: str = "initial",
    support: Words = "full",
    k: int = 100,
    form: Form = "tail",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "none",
    text: str | None = None,
) -> Method:
    """Entropy-aware on-policy distillation: cover what an unsure teacher may say.

    y ~ p(.|x);  L = (1/N) sum_t KL(p_t||q_t) + forward 1[H(q_t) > unsure] KL(q_t||p_t), H(q) the
    entropy of the teacher's law. Reverse alone would pick one of several good words at a fork.

    Source: Entropy-Aware On-Policy Distillation of Language Models, arXiv 2603.07079;
    reconstructed from its abstract: threshold and weight are ours.
    Needs: what `context` tells. Detached: the teacher with its entropy, the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError as `opsd`, a negative weight, and support sampled: at one word neither
    divergence can be differentiated directly.
    Degenerates to: `opsd` with divergence reverse for unsure=inf or forward=0; the sum of both
    divergences everywhere for unsure < 0.

    Args:
        unsure: nats of entropy above which the teacher is unsure.
        forward: weight of the forward divergence there.
        teacher: a folder with a better model of the same vocabulary, or as in `opsd`.
        support, k, form: as in `opsd`.
        correct, cap: as in `opsd`.
        context, text: for a teacher that is told more than the student: as in `opsd`.
    """
    if not forward >= 0:
        raise ValueError(f"forward={forward} is a weight: it must be at least 0")
    words = Support(support, k, form)
    if support == "sampled" or (words.listed and form == "raw"):
        raise ValueError(
            f"support={support!r} with form={form!r} has no right gradient in both divergences; "
            "take support 'full', or a list with form 'tail' or 'renormalised'"
        )
    told, judge = Context(context, text), Teacher.parse(teacher)

    def views(batch, models):
        return {"policy": plain(batch), **judge.views(batch, models, told.prompts(batch))}

    def loss(scores, batch):
        student, judging = replace(scores["policy"], weight=None), judge.scores(scores)
        covering = student.divergence(judging, Divergence("forward", support=words))
        fork = student.notes["teacher_entropy"] > unsure
        exact = student.divergence(judging, Divergence("reverse", support=words))
        return exact + torch.where(fork, forward * covering, 0.0)

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        told.tell,
        views=views,
        weigh=told_mean,
        needs=told.needs,
        stale=correct is not None,
        signal_name="reverse divergence, and forward where the teacher is unsure (nats)",
    )
