"""Trials: whether a model is what the library takes it for, seen on a few tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from autodidact.attention import inside_documents, way
from autodidact.pack import packed
from autodidact.view import View

if TYPE_CHECKING:
    from autodidact.model import LM


def check_weights(lm: LM) -> None:
    """Raise `ValueError`, naming the first, unless all weights are finite numbers."""
    for name, weight in lm.model.named_parameters():
        bad = int((~weight.isfinite()).sum())
        if bad:
            raise ValueError(
                f"the weights of {lm.name!r} are not finite: {bad} of {weight.numel()} numbers of "
                f"{name}"
            )


@torch.no_grad()
def check(lm: LM) -> None:
    """Refuse, by name, weights that are not finite, an architecture whose logits are not
    head(trunk(x)), or which reads later tokens though it does not say so (`is_causal` of its
    configuration), or not though it does."""
    check_weights(lm)
    kind = type(lm.base).__name__
    if lm.base.get_output_embeddings() is None:
        raise ValueError(f"{kind} ({lm.name}) has no output head: not a causal LM")
    size = lm.base.get_output_embeddings().weight.shape[0]
    ids = torch.arange(1, 7, device=lm.device)[None] % size
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % size], 1)
    # Without autocast: what is compared are formulas, in the precision of the weights.
    real = torch.ones_like(ids)
    with lm.reading():
        expected = lm.base(input_ids=ids, attention_mask=real).logits[0].float()
        found, changed = (
            lm.head()
            .logits(lm.base.base_model(input_ids=x, attention_mask=real).last_hidden_state[0])
            .float()
            for x in (ids, other)
        )
    tolerance = 5e-2 if lm.head().weight.dtype == torch.bfloat16 else 1e-4
    causal = torch.allclose(changed[:-1], found[:-1], rtol=tolerance, atol=tolerance)
    if causal != lm.causal:
        says = "depends on later ones" if lm.causal else "does not depend on later ones"
        raise ValueError(
            f"{kind} ({lm.name}) is not supported: it is {'not causal' if lm.causal else 'causal'},"
            f" what it says about a token {says}"
        )
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"{kind} ({lm.name}) is not supported: its logits are not its output head "
            f"applied to its last hidden state (largest difference "
            f"{(found - expected).abs().max():.2g})"
        )


@torch.no_grad()
def obstacle(lm: LM) -> str | None:
    """Why a model cannot read packed views, `None` where it reads a small one as row by row.

    Reasons are a backend that is not known here, and whatever else of its layers looks beyond the
    document: a recurrent state, a convolution, a bias made of columns.
    """
    trunk = lm.base.base_model
    size = trunk.get_input_embeddings().weight.shape[0]
    column = torch.arange(12, device=lm.device).expand(5, 12)
    lengths = torch.tensor([7, 12, 5, 9, 9], device=lm.device)[:, None]
    branch = torch.tensor([12, 4, 0, 4, 8], device=lm.device)[:, None]
    row = torch.arange(5, device=lm.device)[:, None]
    ids = (3 + 5 * column + 7 * row * (column >= branch)) % size
    real = column < lengths
    at = torch.where(real, torch.arange(60, device=lm.device).view(5, 12), -1)
    view = View(ids, real, at)
    try:
        tree = 2 if lm.causal and way(trunk) != "varlen" else None
        together = packed(view, None, tree)
        with inside_documents(trunk, together) as options:
            found = lm.hidden(
                together.ids, together.real, position_ids=together.position, use_cache=False,
                **options,
            ).last_hidden_state  # fmt: skip
    # Code of an architecture that nobody here has read, given a mask that it does not expect.
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return str(error)
    found, worst = found.flatten(0, 1).float(), 0.0
    for r, length in enumerate(lengths.flatten().tolist()):
        alone = lm.hidden(ids[r : r + 1, :length], real[r : r + 1, :length], use_cache=False)
        expected = alone.last_hidden_state[0].float()
        gap = (found[together.at[r, :length]] - expected).norm() / expected.norm()
        worst = max(worst, float(gap)) if gap.isfinite() else float("nan")
    half = lm.autocast or next(trunk.parameters()).dtype in (torch.bfloat16, torch.float16)
    if worst <= (5e-2 if half else 1e-4):
        return None
    return (
        f"{type(trunk).__name__} reads a packed row otherwise than its documents one by one "
        f"(relative difference {worst:.2g}): some layer looks beyond a document"
    )
