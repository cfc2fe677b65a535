"""The tabular masked model of `recipes.studies.tabular` in a `Models`, and batches of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from recipes.studies.tabular import Tabular

from autodidact.batch import Batch, batch_of
from autodidact.model import LM
from autodidact.models import Models
from toys import toy_task

PROMPT = (1,)


def table(tokenizer, places: int = 4, **options) -> LM:
    """A random table as a model; the end token of its tokenizer is none of its words."""
    return LM(Tabular(places, **options), tokenizer, "a table")


def models_of(lm: LM, updates: int = 0) -> Models:
    """Its roles, as they are after some updates. A table is read row by row."""
    models = Models(lm)
    models.pack = False
    models.ledger.optimizer_steps = updates
    return models


def texts_of(places: int, words: int = 3) -> torch.Tensor:
    """Every text."""
    return torch.tensor(list(product(range(words), repeat=places)))


def written(
    texts: torch.Tensor,
    orders: torch.Tensor | None = None,
    own: torch.Tensor | None = None,
    prompt: Sequence[int] = PROMPT,
) -> Batch:
    """Texts after a prompt as a batch, written from left to right unless orders are given."""
    orders = torch.arange(1, texts.shape[1] + 1).expand_as(texts) if orders is None else orders
    task = toy_task(1)
    return batch_of(
        task.train * len(texts),
        [list(prompt)] * len(texts),
        texts.tolist(),
        task,
        tokens={"order": orders.tolist(), "canvas": torch.ones_like(orders).tolist()},
        own=((orders > 0) if own is None else own).tolist(),
    )


def live(reading, batch: Batch, models: Models) -> torch.Tensor:
    """The value of each row by the policy, with the noise that the batch carries."""
    views = reading.views(batch, models, "policy", "policy")
    return reading.logp(models.scores(views, batch), batch, "policy").sum(1)


def values(reading, batch: Batch, models: Models) -> torch.Tensor:
    return live(reading, batch, models).detach()
