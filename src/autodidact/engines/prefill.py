"""Reading prompts for generation: no padding, shared beginnings once, one cache for all of them.

Shapes: B prompts, T the longest prompt, D hidden size; R x S what the model is fed; H heads of E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int

from autodidact.model import LM
from autodidact.pack import lean
from autodidact.view import View

if TYPE_CHECKING:
    from transformers import DynamicCache


class Prefilled(NamedTuple):
    """Prompts that have been read, as if each was alone, in columns that end together.

    Attributes:
        cache: keys and values, [B, H, T, E] in each layer; of a layer with a sliding window only
            the last columns. What stands where `real` is false means nothing.
        hidden: of the last token of each prompt.
        real: which columns hold a token.
        position: where the last token of each prompt stands for the reader.
        read: how many tokens were read: those of a shared beginning count once.
    """

    cache: DynamicCache
    hidden: Float[torch.Tensor, "B D"]
    real: Bool[torch.Tensor, "B T"]
    position: Int[torch.Tensor, "B"]
    read: int


@torch.no_grad()
def prefill(lm: LM, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Read prompts of different lengths in packed rows, then lay their keys and values apart.

    The cache of prompt b holds at column T - length_b + i the key and the value of its token i:

        cache[b, h, T - length_b + i] = packed[r, h, s],  (r, s) = the place of token i of prompt b

    Keys are rotated by the position inside the prompt, so that they are those of the prompt read
    alone. A beginning that several prompts share has one place and is copied to each of them.
    The prompts are padded on the left instead where packing saves nothing, and for a model that
    cannot read packed views (`LM.obstacle`) or whose cache holds more than keys and values.

    Source: Prepacking, arXiv 2404.09529, which packs without shared beginnings and drops the last
    token of each prompt; here it is read too, as generation begins with its hidden state.

    Args:
        prompts: token ids, at least one of each prompt.

    Raises:
        ValueError: the model also keeps a recurrent state, see `empty_cache`.
    """
    from transformers import DynamicCache

    view, cache = ending_together(prompts, lm.device), empty_cache(lm)
    fed = _fed(lm, view, cache)
    # A layer with a window would drop what later documents of a packed row leave no room for.
    read = cache if fed is view else DynamicCache()
    hidden = lm.read(fed, past_key_values=read, use_cache=True).last_hidden_state
    if fed is not view:
        _lay_apart(read, fed, cache)
    assert view.position is not None
    last, count = hidden.flatten(0, 1)[fed.at[:, -1]], int(fed.real.sum())
    return Prefilled(cache, last, view.real, view.position[:, -1], count)


def tokens_read(lm: LM, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens `prefill` reads of these prompts, without reading them."""
    view = ending_together(prompts, lm.device)
    return int(_fed(lm, view, empty_cache(lm)).real.sum())


def ending_together(prompts: Sequence[Sequence[int]], device: torch.device) -> View:
    """Prompts padded on the left; every token's own output is asked."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    real = torch.arange(longest, device=device) >= longest - lengths[:, None]
    ids = torch.zeros(real.shape, dtype=torch.long, device=device)
    ids[real] = torch.tensor([word for prompt in prompts for word in prompt], device=device)
    place = torch.arange(real.numel(), device=device).view(real.shape)
    position = real.long().cumsum(1).sub(1).clamp(min=0)
    return View(ids, real, torch.where(real, place, -1), position=position)


def _fed(lm: LM, view: View, cache: DynamicCache) -> View:
    """What the model is fed to read the prompts: the view itself unless packing saves."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return lean(lm, view) if all(type(layer) in known for layer in cache.layers) else view


def _lay_apart(read: DynamicCache, fed: View, cache: DynamicCache) -> None:
    """Move keys and values of a packed view into the columns of its prompts, layer by layer."""
    place = fed.at.clamp(min=0)  # padding is given some token's: it is masked
    for number in range(len(cache.layers)):
        layer: Any = read.layers.pop(0)
        assert layer.keys.shape[::2] == layer.values.shape[::2] == fed.ids.shape
        keys, values = (
            each.transpose(1, 2).flatten(0, 1)[place].transpose(1, 2)
            for each in (layer.keys, layer.values)
        )
        cache.update(keys, values, number)


def empty_cache(lm: LM) -> DynamicCache:
    """A cache of keys and values; `ValueError` for an architecture that also keeps a state.

    A state has read the padding of the shorter prompts, which keys and values mask.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    cache = DynamicCache(config=lm.base.config)
    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers):
        raise ValueError(
            f"the local engine cannot draw from {type(lm.base).__name__} ({lm.name}): it has "
            "recurrent layers"
        )
    return cache
