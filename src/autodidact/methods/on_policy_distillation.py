from __future__ import annotations

from dataclasses import replace

from autodidact.contexts import Context, ContextKind
from autodidact.divergence import Divergence, Support
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, advantage
from autodidact.losses.importance import both_laws
from autodidact.losses.weights import told_mean
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher
from autodidact.view import plain


@factory
def on_policy_distillation(
    n: int = 1,
    length: int = 1024,
    teacher: str = "initial",
    discount: float = 0.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    context: ContextKind = "none",
    text: str | None = None,
) -> Method:
    """On-policy distillation as reinforcement learning: log q - log p of each token is its reward.

    y ~ mu(.|x), the sampler;  A_t = sum_{u>=t} g^(u-t) (log q(y_u) - log p(y_u));
    L = -(1/N) sum_t rho_t A_t, rho_t = p(y_t) / mu(y_t), q the teacher's law, g the discount.
    With top_k or top_p all three laws are renormalised over the words that were left.

    Source: On-Policy Distillation (Thinking Machines, 2025; no paper), with the reverse divergence
    of MiniLLM, arXiv 2306.08543. The release has mu for p in A, so that whatever the sampler's
    numbers differ by from the trainer's is taken for the teacher's opinion; here it is not.
    Needs: what `context` tells. Detached: A, so the teacher and p within it; mu.
    Shapes: one value per own token; its mean is the reverse divergence at discount 0.
    Raises: ValueError as `opsd`, and for a discount outside 0 to 1.
    Degenerates to: zero where the teacher is the student. On average its gradient is that of
    KL(p||q), at discount 1 of whole texts: `opsd` with divergence reverse at the sampled token.

    Args:
        teacher: a folder with a better model of the same vocabulary, or as in `opsd`.
        discount: above 0, tokens answer for later ones too.
        context, text: for a teacher that is told more than the student: as in `opsd`.
    """
    told, judge = Context(context, text), Teacher.parse(teacher)
    how = Estimator(
        Divergence("reverse", support=Support("sampled")), "advantage", discount=discount
    )

    def views(batch, models):
        return {"policy": plain(batch), **judge.views(batch, models, told.prompts(batch))}

    def loss(scores, batch):
        student, judging = scores["policy"], judge.scores(scores)
        now, then = both_laws(student, batch)
        said = both_laws(judging, batch)[0].detach()
        trained = replace(student, notes={"logp": now.detach()})
        gain = advantage(trained, replace(judging, notes={"logp": said}), how)
        return -(now - then).exp() * gain * batch.own

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        loss,
        told.tell,
        views=views,
        weigh=told_mean,
        needs=told.needs,
        stale=True,
        signal_name="log-ratio to the teacher (nats)",
    )
