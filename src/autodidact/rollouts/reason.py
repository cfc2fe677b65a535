"""A teacher who thinks before it judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from autodidact.batch import Batch
from autodidact.contexts import TOLD, Context
from autodidact.law import Law
from autodidact.rollouts.role import in_place
from autodidact.rollouts.sample import complete
from autodidact.teachers import Teacher

if TYPE_CHECKING:
    from autodidact.models import Models

SEED = 1
"""Of what the teacher writes: about the same problem, with the same weights, the same."""


def reasoning(told: Context, judge: Teacher, length: int) -> Callable[[Batch, Models], Batch]:
    """A credit that tells the teacher, and lets it write about that first.

    The first role of the teacher reads its own prompt, privileged text included, and writes at
    most `length` tokens; what it wrote then follows the text in all its prompts. One text for each
    prompt, drawn at temperature 1, and charged as generated. With length 0 it is `Context.tell`.

    Source: the switch `reason_first` of the release of OPSD, arXiv 2601.18734.

    Raises:
        ValueError: a length below 0; and when drawing, a prompt that leaves it no room.
    """
    if length < 0:
        raise ValueError(f"reason={length} is a number of tokens: it must be at least 0")
    if not length:
        return told.tell
    role = judge.terms[0][1]

    def credit(batch: Batch, models: Models) -> Batch:
        batch = told.tell(batch, models)
        reader = models[role]
        prompts = [tuple(reader.render(messages)) for messages in told.prompts(batch)]
        once = list(dict.fromkeys(prompts))
        drawn = complete(in_place(models, role), once, 1, length, Law(), SEED)
        written = {
            prompt: reader.decode(found.ids) for prompt, [found] in zip(once, drawn, strict=True)
        }
        rows = []
        for problem, prompt in zip(batch.rows, prompts, strict=True):
            said = problem.meta[TOLD]
            if said is not None:
                kind, text = said
                said = kind, f"{text}\n\n{written[prompt]}"
            rows.append(replace(problem, meta={**problem.meta, TOLD: said}))
        return replace(batch, rows=tuple(rows))

    return credit
