"""How a packed view is read: attention inside documents, on each backend of transformers.

Shapes: R x S the rows and columns of a view, n segments, Q queries and K keys of one segment.

transformers describes the mask of every kind of layer (full, sliding, chunked, in both directions)
by a function of the indices of a query and a key, and looks up by the name of the backend what
makes a mask of it; most architectures look up their attention in the same way. While a packed
view is read, both answers are given here:

segments   (sdpa, eager) the architecture's own attention, segment by segment over its own tokens
           and those of its ancestors: one row without padding, and no mask of S x S
masks      (flex_attention; sdpa and eager of architectures that do not look up their attention)
           the backend's own mask, of positions instead of columns, and inside documents only
varlen     (flash_attention_2, flash_attention_3) the lengths of the documents; no shared prefixes
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int

from autodidact.names import nearest
from autodidact.view import View

Way = Literal["segments", "masks", "varlen"]
VARLEN = ("flash_attention_2", "flash_attention_3")
BACKENDS = ("sdpa", "eager", "flex_attention", *VARLEN)


def way(trunk: Any) -> Way:
    """How the trunk reads packed views; `ValueError` names one that cannot."""
    kind, backend = type(trunk).__name__, trunk.config._attn_implementation
    if "position_ids" not in inspect.signature(trunk.forward).parameters:
        raise ValueError(f"{kind} takes no positions (position_ids)")
    if backend not in BACKENDS:
        raise ValueError(
            f"the attention backend {backend!r} of {kind} is none of {', '.join(BACKENDS)}"
            + nearest(backend, BACKENDS)
        )
    if backend in VARLEN:
        return "varlen"
    follows = trunk._supports_attention_backend
    return "segments" if backend != "flex_attention" and follows else "masks"


def capacity(trunk: Any) -> int | None:
    """How long a packed row should be at most; `None` where length costs nothing.

    A dense mask makes a token attend to its whole row: over as many columns as the hidden size
    that is a sixth of the cost of its linear layers. Some architectures keep a table of as many
    columns as their context.
    """
    if way(trunk) != "masks" or trunk.config._attn_implementation == "flex_attention":
        return None
    config = trunk.config.get_text_config()
    return min(config.hidden_size, getattr(config, "max_position_embeddings", config.hidden_size))


@contextmanager
def inside_documents(trunk: Any, view: View) -> Iterator[dict[str, Any]]:
    """While this is open, a forward pass of the trunk over the view stays inside its documents.

    Yields further arguments of the pass. The backward pass needs nothing, unless it repeats the
    forward pass (gradient checkpointing).
    """
    backend = trunk.config._attn_implementation
    if way(trunk) == "varlen":
        yield _lengths(view)
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as ATTENTIONS

    with ExitStack() as stack:
        if way(trunk) == "segments":
            stack.enter_context(_answer(MASKS, backend, _segments(view, backend)))
            stack.enter_context(_answer(ATTENTIONS, backend, _by_segment(ATTENTIONS.get(backend))))
        else:
            stack.enter_context(_answer(MASKS, backend, _masked(view, MASKS[backend])))
        yield {}


@contextmanager
def _answer(table: MutableMapping[str, Any], name: str, function: Callable) -> Iterator[None]:
    """The table answers with this function, and afterwards as before."""
    before = table.get(name)
    table[name] = function
    try:
        yield
    finally:
        del table[name]
        if table.get(name) is not before:
            table[name] = before


# ------------------------------------------------------------------ varlen


def _lengths(view: View) -> dict[str, Any]:
    """The arguments of FlashAttention's varlen kernel; documents without parents, in one row."""
    if view.parent is not None:
        raise ValueError(f"{', '.join(VARLEN)} cannot read shared prefixes")
    if len(view.ids) > 1 or not view.real.all():
        raise ValueError(f"{', '.join(VARLEN)} read packed views of one row without padding")
    lengths = torch.unique_consecutive(view.document, return_counts=True)[1]
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    longest = int(lengths.max())
    return {
        "cu_seq_lens_q": ends, "cu_seq_lens_k": ends,
        "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip


# ------------------------------------------------------------------ masks


def _numbers(view: View) -> Int[torch.Tensor, "R S"]:
    """The segment of each token, -1 for padding."""
    assert view.document is not None
    return torch.where(view.real, view.document, -1)


def _reads(view: View) -> Bool[torch.Tensor, "m m"]:
    """Whether the tokens of one segment may read those of another; m = n + 1.

    The last segment is the padding, which reads itself, so that no row of a mask is empty.
    """
    count = int(_numbers(view).max()) + 1
    reads = torch.eye(count + 1, dtype=torch.bool, device=view.ids.device)
    if view.parent is not None:
        for segment, chain in enumerate(_chains(view.parent.tolist())):
            reads[segment, chain] = True
    return reads


def _chains(parents: list[int]) -> list[list[int]]:
    """For each segment its ancestors from the root down, and itself."""
    chains: dict[int, list[int]] = {-1: []}

    def chain(segment: int) -> list[int]:
        if segment not in chains:
            chains[segment] = [*chain(parents[segment]), segment]
        return chains[segment]

    return [chain(segment) for segment in range(len(parents))]


def _masked(view: View, native: Callable) -> Callable:
    """The backend's own mask, of positions instead of columns, and inside documents only."""
    # The padding has number -1, the last row and column of `reads`.
    reads, document, position = _reads(view), _numbers(view), view.position
    assert position is not None

    def build(**asked: Any) -> Any:
        function = asked["mask_function"]

        def inside(b, h, q, k):
            allowed = reads[document[b, q], document[b, k]]
            return allowed & function(b, h, position[b, q], position[b, k])

        never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return native(**asked | never | {"mask_function": inside, "attention_mask": None})

    return build


# ------------------------------------------------------------------ segments


class Reading(NamedTuple):
    """What each segment reads, for one kind of layer.

    Attributes:
        sizes: tokens of each segment; the padding behind a row is a segment too.
        chains: for each segment the numbers of those that it reads, itself last.
        masks: for each segment [1, 1, Q, K], or `None` where `causal` says everything.
        causal: for each segment whether its tokens read only those before.
    """

    sizes: list[int]
    chains: list[list[int]]
    masks: list[torch.Tensor | None]
    causal: list[bool]


def _segments(view: View, backend: str) -> Callable:
    """What makes the masks of a kind of layer, segment by segment."""
    from transformers.masking_utils import causal_mask_function

    assert view.position is not None
    numbers = _numbers(view)
    behind = -1 - torch.arange(len(numbers), device=numbers.device)[:, None]
    named = torch.where(view.real, numbers, behind).flatten()
    names, lengths = torch.unique_consecutive(named, return_counts=True)
    sizes = lengths.tolist()
    place = {name: i for i, name in enumerate(names.tolist())}
    assert len(place) == len(sizes), "the tokens of a segment follow each other"
    parents = [-1] * len(sizes)
    if view.parent is not None:
        for child, parent in enumerate(view.parent.tolist()):
            parents[place[child]] = place.get(parent, -1)
    chains = _chains(parents)
    positions = view.position.flatten().split(sizes)

    def build(**asked: Any) -> Reading:
        if asked.get("use_vmap"):
            raise ValueError("its masks are made by functions of its own")
        function = asked["mask_function"]
        masks: list[torch.Tensor | None] = []
        causal: list[bool] = []
        for segment, chain in enumerate(chains):
            first = len(chain) == 1
            if first and function is causal_mask_function and backend == "sdpa":
                masks.append(None)
                causal.append(True)
                continue
            q = positions[segment][:, None]
            k = torch.cat([positions[i] for i in chain])[None]
            row = torch.zeros((), dtype=torch.long, device=q.device)
            mask = function(row, row, q, k).expand(len(q), k.shape[1])[None, None]
            before = mask.new_ones(mask.shape).tril()
            causal.append(first and backend == "sdpa" and torch.equal(mask, before))
            if backend == "eager":
                kept = torch.zeros((), dtype=asked["dtype"], device=mask.device)
                masks.append(torch.where(mask, kept, torch.finfo(kept.dtype).min))
            else:
                masks.append(None if causal[-1] or mask.all() else mask)
        return Reading(sizes, chains, masks, causal)

    return build


def _by_segment(native: Callable | None) -> Callable:
    """Attention segment by segment; `native` is that of the backend, `None` the module's eager."""

    def attend(module, query, key, value, attention_mask: Reading, *args, **options):
        one = native or sys.modules[type(module).__module__].eager_attention_forward
        # [R, H, S, E] -> H heads over the R * S tokens, in pieces. One split has one backward.
        queries, keys, values = (
            each.transpose(0, 1).flatten(1, 2)[None].split(attention_mask.sizes, 2)
            for each in (query, key, value)
        )
        found = []
        for segment, chain in enumerate(attention_mask.chains):
            if native is not None:
                options["is_causal"] = attention_mask.causal[segment]
            read = (_together([each[i] for i in chain]) for each in (keys, values))
            mask = attention_mask.masks[segment]
            found.append(one(module, queries[segment], *read, mask, *args, **options)[0])
        output = torch.cat(found, 1)
        return output.unflatten(1, (len(query), -1)).squeeze(0), None

    return attend


def _together(pieces: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(pieces, 2) if len(pieces) > 1 else pieces[0]
