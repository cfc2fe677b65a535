from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from autodidact.divergence import Divergence, Kind
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, distill
from autodidact.losses.importance import Correct, corrected
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.names import choose
from autodidact.rollouts.given import Given
from autodidact.rollouts.role import FromRole
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain

Source = Literal["draft", "target", "mixture", "given"]


@factory
def distillspec(
    n: int = 1,
    length: int = 1024,
    divergence: Kind = "jsd",
    beta: float = 0.5,
    teacher: str = "tiny",
    source: Source = "draft",
    share: float = 0.5,
    normalise: Normalise = "sequence",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """DistillSpec: a small draft learns to propose what the target of speculative decoding keeps.

    The policy in training is the draft p, the teacher the target q; both read the same row.
    L = (1/B) sum_i (1/T_i) sum_t D(q_t || p_t), D forward KL(q||p), reverse KL(p||q), JSD or TV.
    A proposal stands with probability a_t = sum_v min(p_v, q_v) = 1 - TV_t: grad TV = -grad a.

    Source: DistillSpec, arXiv 2310.08461; no release was found.
    Needs: a target with the draft's vocabulary; `solution` for source "given". Detached: the
    target, the sampling and the ratios of `correct`.
    Shapes: one value per own token, in nats (total variation: a probability).
    Raises: ValueError for a sum of roles that is to draw, and `correct` for what others drew.
    Degenerates to: `opsd` with context none for source "draft" and normalise "token"; zero where
    draft and target are equal.

    Args:
        divergence: tv is one minus acceptance, and flat where the laws hardly overlap, unlike the
            others; the paper chooses by task.
        beta: of the JSD only.
        teacher: the target: a folder, or what else `teachers.Teacher` reads.
        source: who wrote the text: draft (the paper's best), target, mixture of both, or given.
        share: of a mixture that the draft writes.
        normalise: "sequence" as in the paper, "token", or "constant" = `length`.
        temperature: of sampling and of both laws; take that of decoding.
        correct: weigh tokens that another engine or older weights drew: token, sequence or mask.
        cap: of those weights.
    """
    choose("source", source, get_args(Source))
    how, judge = Estimator(Divergence(divergence, beta)), Teacher.parse(teacher)
    if source in ("target", "mixture") and len(judge.terms) > 1:
        raise ValueError(
            f"source {source!r} draws from the target, and from the sum of roles {teacher!r} "
            "nothing can be drawn; take source='draft' or one role"
        )
    if correct is not None and source != "draft":
        raise ValueError(
            f"correct={correct!r} with source {source!r}: only tokens that the draft drew can be "
            "weighed as its own; take correct=None or source='draft'"
        )
    law, role = Law(temperature, top_k, top_p), judge.terms[0][1]
    rollout = {
        "draft": Sample(n, length, law),
        "target": FromRole(n, length, law, role),
        "mixture": FromRole(n, length, law, role, share),
        "given": Given(),
    }[source]

    def views(batch, models):
        prompts = [batch.task.prompt(problem) for problem in batch.rows]
        return {"policy": plain(batch), **judge.views(batch, models, prompts)}

    def loss(scores, batch):
        return distill(scores["policy"], judge.scores(scores), batch, how)

    return Method(
        rollout,
        corrected(loss, correct, cap),
        lambda batch, models: replace(batch, temperature=temperature or 1.0),
        views=views,
        weigh=normalised(normalise, length),
        needs=("solution",) if source == "given" else (),
        stale=correct is not None or source in ("target", "given"),
        signal_name=f"{divergence} divergence to the target",
    )
