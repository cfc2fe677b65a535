from __future__ import annotations

from autodidact.contexts import privileged
from autodidact.divergence import ClipKind, Divergence, Form, Kind, Support, Words
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, EstimatorKind, distill
from autodidact.losses.importance import Correct, corrected
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.view import plain, reread


@factory
def opsd(
    n: int = 1,
    length: int = 1024,
    divergence: Kind = "forward",
    beta: float = 0.5,
    clip: float | None = None,
    teacher: str = "initial",
    support: Words = "full",
    k: int = 100,
    estimator: EstimatorKind = "direct",
    form: Form = "tail",
    ratio_clip: float | None = None,
    discount: float = 0.0,
    clip_kind: ClipKind = "pointwise",
    rescale: bool = False,
    teacher_thinking: bool | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """On-Policy Self-Distillation: the same weights, shown the solution, judge every token.

    y ~ p(.|x);  L = (1/N) sum_t D(q_t || p_t), q_t = q(.|x, solution, y_<t) the teacher and
    p_t = p(.|x, y_<t) the student: forward KL(q||p), reverse KL(p||q), JSD_beta or total
    variation, over the whole vocabulary or a part of it; N the own tokens of the step.

    Source: Self-Distilled Reasoner, arXiv 2601.18734 (`opsd_paper` has its settings). The
    release sums over the vocabulary and averages over tokens, as here; the paper's equation
    averages within each answer first.
    Needs: `solution`. Detached: the teacher, the sampling, ratios and returns.
    Shapes: one value per own token, in nats; teacher prompts may be longer than the student's.
    Raises: ValueError at once on a combination whose expected gradient is zero or wrong, with the
    reason; before the run on problems without a solution, on a prompt that does not fit, and on
    an unknown divergence or teacher.
    Degenerates to: exactly zero when the teacher reads what the student reads with equal weights.

    Args:
        divergence: forward covers what the teacher may say, reverse keeps to what it prefers, jsd
            lies between, tv is 1 - acceptance of speculative decoding.
        beta: of the JSD only.
        clip: pointwise clip of the summands (0.05 in the paper). It deletes what the teacher
            wants more of; below about 1e-3 it pushes away from the teacher.
        teacher: "initial", "policy" (live), "ema", "ema:0.99" or a checkpoint.
        support: the words: full, the k likeliest of the student or teacher, their union or
            intersection, or the sampled token alone.
        k: words of a list.
        estimator: "direct" differentiates the sum over the words; "policy_gradient" holds their
            weights constant, and is what the sampled token needs.
        form: of a list: "tail" adds the other words as one, "renormalised" leaves them out of
            both laws, "raw" ignores them (forward and reverse then need "policy_gradient").
        ratio_clip: weigh tokens by their probability now over that when sampled, cut here.
        discount: above 0, tokens answer for the reverse divergence of later ones too (MiniLLM).
        clip_kind: of the clip: "symmetric" cuts summands on both sides, "token" cuts whole tokens.
        rescale: divide the JSD by beta (1 - beta), so that one learning rate suits every beta.
        teacher_thinking: thinking mode of the teacher's prompt; the student's by default.
        correct: weigh tokens drawn by another engine or older weights: by "token", by "sequence",
            or "mask" those too far apart.
        cap: of those weights.
    """
    if correct is not None and ratio_clip is not None:
        raise ValueError(
            f"ratio_clip={ratio_clip} and correct={correct!r} weigh the same tokens twice; take "
            "correct, whose ratio also fits top_k and top_p"
        )
    over = Support(support, k, form)
    measured = Divergence(divergence, beta, rescale, clip, clip_kind, over)
    how = Estimator(measured, estimator, ratio_clip, discount)

    def views(batch, models):
        told = reread(batch, models, privileged(batch), teacher, thinking=teacher_thinking)
        return {"policy": plain(batch), "teacher": told}

    def loss(scores, batch):
        return distill(scores["policy"], scores["teacher"], batch, how)

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        views=views,
        needs=("solution",),
        stale=correct is not None or ratio_clip is not None,
        signal_name=f"{divergence} divergence to the teacher (nats)",
    )
