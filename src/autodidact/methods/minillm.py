from __future__ import annotations

from dataclasses import replace

import torch

from autodidact.divergence import Divergence, Support
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, advantage
from autodidact.losses.policy import clipped
from autodidact.method import Method, factory
from autodidact.rollouts.mixture import TeacherMixed
from autodidact.rollouts.sample import Sample
from autodidact.view import plain

WHOLE = Divergence("reverse")
RETURN = Estimator(Divergence("reverse", support=Support("sampled")), "advantage", discount=1.0)


@factory
def minillm(
    n: int = 1,
    length: int = 1024,
    teacher: str = "initial",
    share: float = 0.2,
    mean_return: bool = True,
    clip: float = 0.2,
    epochs: int = 1,
    temperature: float = 1.0,
) -> Method:
    """MiniLLM: the reverse divergence of whole texts, its first step exact, with less variance.

    y_t ~ m = share q + (1 - share) p, with the weight w_t = p_old(y_t) / m(y_t);
    L = (1/N) sum_t w_t [KL(p_t||q_t) - min(rho A, clip(rho, 1-clip, 1+clip) A)],
    A_t = mean (or sum) over u > t of log q(y_u) - log p(y_u), rho = p(y_t) / p_old(y_t).

    Source: MiniLLM: On-Policy Distillation of Large Language Models, arXiv 2306.08543. Its loss on
    pretraining text is left out. As there, w has the ratio of the token alone, not those before it.
    Needs: a `teacher`, no solution. Detached: the teacher, w, A, the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError for a share outside 0 to below 1, a clip or a temperature not above 0, and
    vocabularies of different size.
    Degenerates to: the exact gradient of KL(p||q) of whole texts, summed over tokens, for share=0
    and mean_return=False; then `opsd` with divergence reverse and discount 1, up to variance.

    Args:
        teacher: a role, such as a folder with a better model, that reads what the student reads.
        share: of the teacher in what is drawn; 0 draws from the student alone.
        mean_return: A is a mean, so that early tokens of long answers count as much; else a sum.
        clip: the ratio to the law before the update counts within 1 - clip and 1 + clip only.
    """
    if not clip > 0:
        raise ValueError(f"clip={clip} is not allowed: it must be above 0")
    law = Law(temperature)
    mixing = TeacherMixed(n, length, law, teacher, share)

    def views(batch, models):
        return {"policy": plain(batch), "teacher": plain(batch, teacher, grad=False)}

    def loss(scores, batch):
        student = replace(scores["policy"], weight=None)  # w makes it another sum
        first = student.divergence(scores["teacher"], WHOLE)
        now, other = student.logp, student.notes["teacher_logp"]
        told = replace(student, notes={"logp": now.detach()})
        said = replace(scores["teacher"], notes={"logp": other})
        later = advantage(told, said, RETURN) - torch.where(batch.own, other - now.detach(), 0.0)
        if mean_return:
            later = later / _following(batch.own).clamp(min=1)
        weight = torch.where(batch.own, batch.take("raw") - batch.take("logp"), 0.0).exp()
        return weight * (first + clipped(now, batch.take("raw"), later, clip, clip)) * batch.own

    return Method(
        mixing if share else Sample(n, length, law),
        loss,
        views=views,
        epochs=epochs,
        stale=True,
        signal_name="divergence now less what follows (nats)",
    )


def _following(own: torch.Tensor) -> torch.Tensor:
    """How many own tokens follow each column."""
    return own.sum(1, keepdim=True) - own.cumsum(1)
