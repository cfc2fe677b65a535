from __future__ import annotations

from autodidact.credits.peeking import Peek, Source, surest
from autodidact.credits.visited import steps_mean, visited
from autodidact.divergence import ClipKind, Divergence, Form, Kind, Support, Words
from autodidact.engines.denoise import Denoise, Order
from autodidact.law import Law
from autodidact.losses.divergence import Estimator, distill
from autodidact.method import Method, factory
from autodidact.rollouts.tries import Tries
from autodidact.view import noised


@factory
def d_opsd(
    n: int = 8,
    length: int = 256,
    steps: int | None = 128,
    block: int | None = 32,
    order: Order = "confidence",
    least: float = 1.0,
    teacher: str = "initial",
    reveal: float = 0.25,
    source: Source = "own",
    positions: int = 2,
    divergence: Kind = "reverse",
    beta: float = 0.5,
    support: Words = "teacher",
    k: int = 20,
    form: Form = "renormalised",
    clip: float | None = None,
    clip_kind: ClipKind = "token",
    temperature: float = 0.9,
) -> Method:
    """d-OPSD: a masked model is judged, canvas by canvas, by itself shown some of what is ahead.

    At step s of a right completion y the student reads the canvas x_s; the teacher reads x_s with a
    share of the later blocks filled in. L = mean over completions, steps and positions i of
    D(q_i || p_i), p_i = p(.|x_s), q_i = q(.|x_s, tokens ahead), i the `positions` hidden ones of
    the block of which the teacher is surest; D is the reverse divergence KL(p||q).

    Source: on-policy self-distillation for diffusion models, arXiv 2606.18195. Its release cuts
    every word's term of the divergence at 0.05, which is refused here, and makes 4 to 8 updates on
    slices of a trace, here one on all of it; means as in the port of NeMo-RL.
    Needs: `answer`, and `solution` where that is shown. Detached: the teacher. Only completions
    that earned `least` are rows.
    Shapes: one value for each chosen token of each canvas visited, in nats.
    Raises: ValueError for a clip of single words, other bad options, and a causal model.
    Degenerates to: exactly zero for reveal=0 and a teacher with the student's weights.

    Args:
        n, least: at most so many tries of a problem; the first right one counts, or else the best
            of at least that reward (0.25 for Sudoku).
        steps, block, order: how rollouts are written, see `engines.denoise`.
        teacher: initial, ema:0.99, policy (live), copy:50 or a folder.
        reveal, source: of a row's places so many are shown, with its own later tokens or those of
            the solution: `credits.peeking`.
        positions: how many tokens of a canvas are learned from.
        support, k, form: over which words, see `divergence.Support`; "full" for all.
        clip, clip_kind: positions of a larger divergence have no gradient; "token" only.
    """
    if clip_kind != "token":
        raise ValueError(
            f"clip_kind={clip_kind!r} cuts the terms of single words: for q = (.9, .06, .03, .01) "
            "such a loss is least at p = (.33, .22, .22, .22), below its value at p = q, and it "
            "destroys the policy; allowed: 'token', which cuts whole positions"
        )
    if positions < 1:
        raise ValueError(f"positions={positions} must be at least 1")
    measured = Divergence(divergence, beta, False, clip, clip_kind, Support(support, k, form))
    how, peek = Estimator(measured), Peek(reveal, block, source)

    def credit(batch, models):
        seen = peek.credit(visited(batch), models)
        return surest(seen, models, peek.view(seen, models, teacher), positions)

    def views(batch, models):
        student = noised(batch, models, batch.take("still") == 1)
        return {"policy": student, "teacher": peek.view(batch, models, teacher)}

    return Method(
        Tries(n, length, least, Law(temperature), Denoise(steps, block, order)),
        lambda scores, batch: distill(scores["policy"], scores["teacher"], batch, how),
        credit,
        views,
        steps_mean,
        needs=("answer", "solution") if source == "solution" else ("answer",),
        masked=True,
        roles=(teacher,),
        signal_name=f"{divergence} divergence to the teacher (nats)",
    )
