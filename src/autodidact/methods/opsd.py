from __future__ import annotations

from autodidact.contexts import Context, ContextKind
from autodidact.divergence import ClipKind, Divergence, Form, Kind, Support, Words
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, EstimatorKind, distill
from autodidact.losses.importance import Correct, corrected
from autodidact.losses.tokens import Tokens
from autodidact.losses.weights import told_mean
from autodidact.method import Method, factory
from autodidact.rollouts.reason import reasoning
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain


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
    context: ContextKind = "solution",
    text: str | None = None,
    tokens: str = "uniform",
    reason: int = 0,
) -> Method:
    """On-Policy Self-Distillation: the same weights, shown the solution, judge every token.

    y ~ p(.|x);  L = (1/N) sum_t D(q_t || p_t), q_t = q(.|x, solution, y_<t) the teacher and
    p_t = p(.|x, y_<t) the student, D forward KL(q||p), reverse KL(p||q), JSD or total variation.

    Source: Self-Distilled Reasoner, arXiv 2601.18734 (settings: `opsd_paper`). The release
    averages over tokens, as here; the paper's equation within each answer first.
    Needs: `solution`, or what the context tells. Detached: the teacher, ratios and returns.
    Shapes: one value per own token, in nats; teacher prompts may be longer than the student's.
    Raises: ValueError on a combination whose expected gradient is zero or wrong, with the reason,
    on problems without what the context tells, and on a prompt that does not fit.
    Degenerates to: exactly zero when the teacher reads what the student reads with equal weights.

    Args:
        divergence: forward covers what the teacher may say, reverse keeps to what it prefers.
        beta: of the JSD only.
        clip: of the summands (0.05 in the paper): deletes what the teacher wants more of.
        teacher: initial, policy (live), ema:0.99, copy:50, a folder or a sum: `teachers.Teacher`.
        support, k: full, the k likeliest of the student or teacher, or the sampled token alone.
        estimator: of the gradient, see `losses.divergence`; a sampled token needs policy_gradient.
        form: of a list: "tail" adds the other words as one, "renormalised" leaves them out.
        ratio_clip: weigh tokens by their probability now over that when sampled, cut here.
        discount: above 0, tokens answer for the reverse divergence of later ones too (MiniLLM).
        clip_kind: of the clip: "symmetric" cuts summands on both sides, "token" cuts whole tokens.
        rescale: divide the JSD by beta (1 - beta), so that one learning rate suits every beta.
        teacher_thinking: thinking mode of the teacher's prompt; the student's by default.
        correct, cap: weigh tokens that other weights drew, by token, sequence or mask, up to cap.
        context, text: what the teacher is told, such as solution or none: `contexts.Context`.
        reason: the teacher first writes at most this many tokens about what it is told.
        tokens: which count, such as "prefix:0.5" or "entropy:0.2", see `losses.tokens`.
    """
    if correct is not None and ratio_clip is not None:
        raise ValueError(
            f"ratio_clip={ratio_clip} and correct={correct!r} weigh tokens twice; take correct"
        )
    measured = Divergence(divergence, beta, rescale, clip, clip_kind, Support(support, k, form))
    how = Estimator(measured, estimator, ratio_clip, discount)
    told, judge = Context(context, text), Teacher.parse(teacher)

    def views(batch, models):
        seen = judge.views(batch, models, told.prompts(batch), thinking=teacher_thinking)
        return {"policy": plain(batch), **seen}

    def loss(scores, batch):
        return distill(scores["policy"], judge.scores(scores), batch, how)

    method = Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        reasoning(told, judge, reason),
        views=views,
        weigh=told_mean,
        needs=told.needs,
        stale=correct is not None or ratio_clip is not None,
        signal_name=f"{divergence} divergence to the teacher (nats)",
    )
    return Tokens.parse(tokens).on(method, judge)
