from __future__ import annotations

from dataclasses import replace

from autodidact.contexts import ContextKind
from autodidact.divergence import Kind
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.method import Method, factory
from autodidact.methods.opsd import opsd
from autodidact.rollouts.mixture import partly
from autodidact.rollouts.sample import Sample


@factory
def gkd(
    n: int = 1,
    length: int = 1024,
    on_policy: float = 1.0,
    divergence: Kind = "jsd",
    beta: float = 0.5,
    teacher: str = "initial",
    rescale: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
    context: ContextKind = "none",
    text: str | None = None,
) -> Method:
    """Generalized Knowledge Distillation: a teacher judges the student's text, or given text.

    With probability `on_policy` y ~ p(.|x), else y is the given solution;
    L = (1/N) sum_t D(q_t || p_t), D the JSD_beta, forward or reverse divergence to the teacher q.

    Source: On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes,
    arXiv 2306.13649. The paper averages within each answer first; here, as in TRL, over tokens.
    Its mix with a reward is left out.
    Needs: `solution` where on_policy < 1. Detached: the teacher, the sampling.
    Shapes: one value per own token, in nats.
    Raises: ValueError as `opsd`; on_policy outside 0 to 1, `correct` for given text, which no law
    drew, and a law to draw from for on_policy=0.
    Degenerates to: `opsd` without context for on_policy=1; word-level distillation on given text
    for on_policy=0 and forward, a cross-entropy with soft labels.

    Args:
        on_policy: the share of rows that the student writes; 0 takes each solution once.
        divergence, beta: the JSD over beta tends to forward for a small beta; see `opsd`.
        teacher: a folder with a better model of the same vocabulary. The initial weights, reading
            what the student reads, only hold it back.
        rescale, correct, cap: as in `opsd`.
        context, text: for a teacher that is told more than the student: as in `opsd`.
    """
    if correct is not None and on_policy != 1:
        raise ValueError(
            f"correct={correct!r} with on_policy={on_policy}: given tokens were drawn from no law "
            "to correct for; take correct=None or on_policy=1"
        )
    made = opsd(
        n, length, divergence, beta, teacher=teacher, rescale=rescale, correct=correct, cap=cap,
        context=context, text=text,
    )  # fmt: skip
    given = () if on_policy == 1 else ("solution",)
    return replace(
        made,
        rollout=partly(Sample(n, length, Law(temperature, top_k, top_p)), on_policy),
        needs=(*given, *(field for field in made.needs if field not in given)),
    )
