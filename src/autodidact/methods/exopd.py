from __future__ import annotations

from autodidact.contexts import Context, ContextKind
from autodidact.divergence import Divergence, Support, Words
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, EstimatorKind, distill
from autodidact.losses.importance import Correct, corrected
from autodidact.losses.weights import told_mean
from autodidact.method import Method, factory
from autodidact.rollouts.sample import Sample
from autodidact.teachers import Teacher, mixed
from autodidact.view import plain


@factory
def exopd(
    n: int = 1,
    length: int = 1024,
    extrapolate: float = 1.25,
    teacher: str = "initial",
    reference: str = "initial",
    support: Words = "sampled",
    k: int = 100,
    estimator: EstimatorKind = "policy_gradient",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "none",
    text: str | None = None,
) -> Method:
    """Distillation beyond the teacher: to where its training led from a reference, and on.

    y ~ p(.|x);  L = (1/N) sum_t KL(p_t || e_t),  log e = l log q + (1 - l) log r - log Z, q the
    teacher, r the reference, l = extrapolate. It is the optimum of a policy that earns
    l log(q/r) for each token and pays KL(p || r). At the sampled token its advantage is
    A_t = -[(log p - log q) + (l - 1)(log r - log q)] up to log Z, which has no mean effect.

    Source: Learning beyond Teacher: Generalized On-Policy Distillation with Reward Extrapolation,
    arXiv 2602.12125. Its l is 1.25; 1.5 made answers long and training unstable.
    Needs: what `context` tells. Detached: teacher and reference, the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError as `opsd`; vocabularies of different size, logits with a soft cap.
    Degenerates to: on-policy distillation for l = 1, to the reference for l = 0; nothing is learned
    where both are the initial weights and read the same.

    Args:
        extrapolate: l; above 1 goes beyond the teacher, below 1 stays between.
        teacher: a folder with a better model of the same vocabulary, or as in `opsd`.
        reference: what the teacher was trained from, or the student's own beginning.
        support, k, estimator: as in `opsd`; support full with estimator direct is exact.
        correct, cap: as in `opsd`.
        context, text: of the teacher alone, while the reference reads the student's prompt.
    """
    how = Estimator(Divergence("reverse", support=Support(support, k)), estimator)
    told, judge = Context(context, text), Teacher.parse(teacher)

    def views(batch, models):
        seen = judge.views(batch, models, told.prompts(batch))
        return {"policy": plain(batch), "reference": plain(batch, reference, grad=False), **seen}

    def loss(scores, batch):
        parts = [judge.scores(scores), scores["reference"]]
        beyond = mixed(parts, [extrapolate, 1 - extrapolate])
        return distill(scores["policy"], beyond, batch, how)

    return Method(
        Sample(n, length, Law(temperature, top_k, top_p)),
        corrected(loss, correct, cap),
        told.tell,
        views=views,
        weigh=told_mean,
        needs=told.needs,
        stale=correct is not None,
        signal_name="log-ratio to the extrapolated teacher (nats)",
    )
