from __future__ import annotations

from autodidact.contexts import Context, ContextKind
from autodidact.credits.group import Scale, group_advantage
from autodidact.divergence import Divergence, Form, Kind, Support, Words
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, advantage, distill
from autodidact.losses.importance import Correct, both_laws, corrected
from autodidact.losses.policy import clipped
from autodidact.losses.weights import told_mean
from autodidact.method import Method, factory, loss_itself, token_mean
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain

SAMPLED = Estimator(Divergence("reverse", support=Support("sampled")), "advantage")


@factory
def sdpo(
    n: int = 8,
    length: int = 1024,
    divergence: Kind = "jsd",
    beta: float = 0.5,
    teacher: str = "ema:0.95",
    support: Words = "student",
    k: int = 100,
    form: Form = "tail",
    mix: float = 0.0,
    scale: Scale = "std",
    least: float = 0.5,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = "token",
    cap: float = 2.0,
    context: ContextKind = "sibling_and_feedback",
    text: str | None = None,
) -> Method:
    """Self-Distillation Policy Optimization: the teacher is told what the run itself brought up.

    y ~ p(.|x), n answers;  L = (1/N) sum_t D(p_t, q_t), q_t = q(.|x, f, y_<t), f an answer of the
    group that succeeded and, where y failed, the task's feedback; N the tokens of rows with an f.
    With 0 < mix <= 1 instead L = -(1/T) sum_t A_t log p(y_t) over all T tokens, where
    A = mix * A_GRPO + (1 - mix) * log(q(y_t) / p(y_t)), the second term in rows with an f.

    Source: Reinforcement Learning via Self-Distillation, arXiv 2601.20802. Its equation has the
    reverse KL; its release, and the defaults here, the JSD over 100 words and a tail, and a ratio
    to the sampler cut at 2, which is `correct`. Its mix is 0.9.
    Needs: `answer`. Detached: the teacher, f, advantages, ratios, the choice of the list.
    Shapes: one value per own token, in nats.
    Raises: ValueError for mix outside 0..1, support "sampled", and before the run on problems
    without answers.
    Degenerates to: nothing to learn where no answer succeeds and the task says nothing, and from
    a lone success; mix=1 is `grpo` with a mean over tokens and the same `correct`; k of one word
    less than the vocabulary is the divergence over all of it.

    Args:
        divergence, beta, support, k, form: as in `opsd`; not used by mix above 0.
        teacher: a live one diverges; ema:0.95 and trust:0.05 are the paper's. See `opsd`.
        mix: share of the advantage of `grpo`.
        scale: of that: "none" leaves out the division by the standard deviation.
        least: reward from which on an answer is a success.
        correct: weigh tokens by their probability now over that when sampled; None does not.
        cap: of those weights.
        context: "sibling" or "feedback" tell one of the two only; see `contexts.Context`.
        text: of context "system".
    """
    if not 0 <= mix <= 1:
        raise ValueError(f"mix={mix} must be from 0 to 1, the share of the advantage of grpo")
    how = Estimator(Divergence(divergence, beta, support=Support(support, k, form)))
    told, judge = Context(context, text, least), Teacher.parse(teacher)

    def credit(batch, models):
        batch = told.tell(batch, models)
        return group_advantage(batch, scale) if mix else batch

    def views(batch, models):
        return {"policy": plain(batch), **judge.views(batch, models, told.prompts(batch))}

    def loss(scores, batch):
        policy, seen = scores["policy"], judge.scores(scores)
        if not mix:
            return distill(policy, seen, batch, how)
        now, _ = both_laws(policy, batch)
        said = batch.take("told")[:, None] * advantage(policy, seen, SAMPLED)
        # The ratio to the sampler is that of `correct`; this one is 1 and has the gradient.
        return clipped(now, now, mix * batch.take("advantage") + (1 - mix) * said, 0.2, 0.2)

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        credit,
        views,
        token_mean if mix else told_mean,
        needs=tuple(dict.fromkeys((*told.needs, *(("answer",) if mix else ())))),
        stale=correct is not None,
        signal=(lambda scores, batch, values: -values.detach()) if mix else loss_itself,
        signal_name="advantage" if mix else f"{divergence} divergence to the teacher (nats)",
    )
