"""The local engine: batched decoding with PyTorch and transformers.

A prompt is read once for all its samples; finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from autodidact.engines.law import Law, draw, prompt_key, uniform
from autodidact.model import LM
from autodidact.store import Completion

if TYPE_CHECKING:
    from transformers import DynamicCache

RETIRE = 0.75
"""Finished rows are dropped from the cache when at most this share of the rows is still alive."""


@torch.no_grad()
def generate(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    samples: Sequence[Sequence[int]],
    length: int,
    law: Law,
    seed: int,
) -> list[list[Completion]]:
    """Completions of prompts, drawn from exactly the law that is given.

    The generation config of the model is not consulted, save for its end tokens.

    Args:
        samples: for each prompt the numbers of the samples to draw.
        length: at most this many tokens each.
        seed: with the prompt, the number of the sample and the position it fixes every draw.

    Raises:
        ValueError: a prompt and `length` do not fit the context of the model, or the model cannot
            be decoded, see `empty_cache`.
    """
    longest = max(map(len, prompts))
    if longest + length > lm.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {length} new ones do not fit the context of "
            f"{lm.context} tokens"
        )
    device = lm.device
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        real[row, longest - len(prompt) :] = True
    cache = empty_cache(lm)
    head = lm.head()
    position = real.long().cumsum(1).sub(1).clamp(min=0)
    output = lm.hidden(ids, real, position_ids=position, past_key_values=cache, use_cache=True)
    counts = torch.tensor([len(numbers) for numbers in samples], device=device)
    source = torch.arange(len(prompts), device=device).repeat_interleave(counts)
    cache.batch_select_indices(source)
    hidden = output.last_hidden_state[source, -1]
    real, position = real[source], position[source, -1]
    keys = torch.tensor([prompt_key(prompt) for prompt in prompts], device=device)[source]
    number = torch.tensor([n for numbers in samples for n in numbers], device=device)
    ends = torch.tensor(sorted(lm.ends), device=device)

    rows = len(source)
    drawn = torch.zeros(rows, length, dtype=torch.long, device=device)
    logps = torch.zeros(2, rows, length, dtype=torch.float32, device=device)
    sizes = torch.full((rows,), length, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    alive = torch.arange(rows, device=device)
    for step in range(length):
        raw, kept = law.log_probs(head.logits(hidden))
        token = draw(kept, uniform(seed, keys[alive], number[alive], step))
        drawn[alive, step] = token
        logps[0, alive, step] = kept.gather(1, token[:, None]).squeeze(1).float()
        logps[1, alive, step] = raw.gather(1, token[:, None]).squeeze(1).float()
        over = torch.isin(token, ends) & ~finished[alive]
        sizes[alive[over]] = step + 1
        finished[alive] |= over
        going = ~finished[alive]
        left = int(going.sum())
        if not left or step + 1 == length:
            break
        if left <= RETIRE * len(alive):
            keep = going.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            alive, token, real, position = alive[keep], token[keep], real[keep], position[keep]
        position = position + 1
        real = torch.cat([real, real.new_ones(len(alive), 1)], 1)
        hidden = lm.hidden(
            token[:, None], real, position_ids=position[:, None], past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # fmt: skip

    found = [
        Completion(tokens[:size], law_logp[:size], raw_logp[:size], end)
        for tokens, law_logp, raw_logp, size, end in zip(
            drawn.tolist(), logps[0].tolist(), logps[1].tolist(), sizes.tolist(),
            finished.tolist(), strict=True,
        )
    ]  # fmt: skip
    pieces = iter(found)
    return [[next(pieces) for _ in numbers] for numbers in samples]


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
