from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from autodidact.batch import Batch
from autodidact.losses.likelihood import Likelihood, Values
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.models import Models
from autodidact.rollouts.given_canvas import GivenCanvas
from autodidact.scores import Scores
from autodidact.view import View

Noise = Literal["bernoulli", "elbo"]


@factory
def masked_sft(
    length: int | None = 256,
    draws: int = 1,
    noise: Noise = "bernoulli",
    normalise: Normalise = "sequence",
    pretrain: bool = False,
) -> Method:
    """Supervised fine-tuning of a masked model: hidden tokens of the solution are guessed.

    L = -(1/B) sum_i (1/T_i) sum_t 1(t hidden) log p(y_t | q, y with tokens hidden) / u_i, with u_i
    uniform and each of the T_i answer tokens hidden by chance u_i; nothing of the prompt q is.
    On average it is the negative ELBO per token, an upper bound of -(1/T) log p(y | q).

    Source: LLaDA, arXiv 2502.09992, and d1, arXiv 2504.12216. u is at least 0.001, as in d1.
    Needs: `solution`. Nothing is sampled but the canvases, nothing is detached. Answers are filled
    up with end tokens to `length`, and these are learned as any other; in a task with a canvas
    (Sudoku) what it gives stands, and the rest is the answer.
    Shapes: one value per own token, in nats.
    Raises: ValueError for unknown options, before the run on a causal model or problems without a
    solution, and on solutions that do not fit `length` or their canvas.
    Degenerates to: `sft` with one canvas for each token in the order of the text ("left").

    Args:
        length: tokens of an answer, or `None` for the solution and one end token.
        draws: canvases of a row; their u are spread evenly.
        noise: "elbo" hides k of the T tokens, k uniform from 1 to T, with weight T/k instead: the
            same on average, and less variance.
        normalise: "sequence" as in LLaDA; "token" counts every token of the batch alike.
        pretrain: hide all tokens alike, those of the prompt included: the loss of pre-training.
    """
    reading = Likelihood(noise, draws=draws, ratio=False)

    def views(batch: Batch, models: Models) -> Mapping[str, View]:
        return reading.views(batch, models, "policy", "policy")

    def loss(scores: Mapping[str, Scores], batch: Batch) -> Values:
        return -reading.logp(scores, batch, "policy")

    return Method(
        GivenCanvas(length, pretrain),
        loss,
        reading.credit,
        views,
        normalised(normalise, length or 1),
        needs=("solution",),
        masked=True,
        signal_name="negative log-likelihood (nats)",
    )
