"""Forced continuations: given ids appended to what was drawn, and how likely the model finds them.

Shapes: B rows, T columns. Ids are appended, never text: the boundary between what was drawn and
what is given lies between two tokens, whatever a tokenizer would make of the joined text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from autodidact.batch import Batch, batch_of
from autodidact.models import Models
from autodidact.view import plain


def continued(batch: Batch, keep: Sequence[int], tails: Sequence[Sequence[int]]) -> Batch:
    """Each row up to its first `keep` tokens after the prompt, followed by its tail.

    Asked, as `own`, are the tokens of the tails alone. Rows keep their problems and groups, and
    lose their streams.

    Raises:
        ValueError: more tokens are to be kept than a row has, or a tail is empty.
    """
    first = batch.own.int().argmax(1).tolist()
    sizes = batch.real.sum(1).tolist()
    prompts, flags = [], []
    for row, (start, count, tail) in enumerate(zip(first, keep, tails, strict=True)):
        if not 0 <= count <= sizes[row] - start or not tail:
            raise ValueError(
                f"row {row} has {sizes[row] - start} tokens after its prompt: {count} of them and "
                f"a tail of {len(tail)} cannot be its continuation"
            )
        prompts.append(batch.ids[row, : start + count].tolist())
        flags.append([True] * len(tail))
    made = batch_of(
        batch.rows, prompts, tails, batch.task,
        group=batch.group.tolist(), temperature=batch.temperature, own=flags,
    )  # fmt: skip
    return made.to(batch.ids.device)


@torch.no_grad()
def tail_logp(
    models: Models,
    batch: Batch,
    keep: Sequence[int],
    tails: Sequence[Sequence[int]],
    role: str = "policy",
) -> Float[torch.Tensor, "B"]:
    """log p(tail | the row up to `keep`) of a role at temperature 1, in nats.

    With an answer for a tail this is what VeriFree (2505.21493) takes for a reward, with the
    words of a verdict it makes the model a judge.
    """
    made = continued(batch, keep, tails)
    scores = models.score(plain(made, role, grad=False), made, temperature=1.0)
    return scores.logp.sum(1)
