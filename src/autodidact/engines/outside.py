"""What engines outside of the model share: laws, seeds, checks of answers, copies of weights."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from autodidact.adapter import effective_weights
from autodidact.engine import Drawn, Request
from autodidact.engines.rescore import confirm, rescored
from autodidact.files import named
from autodidact.law import Heated, Law, prompt_key
from autodidact.model import LM
from autodidact.sharding import of_shares
from autodidact.store import Completion

COLDEST = 0.01
"""vLLM silently takes this temperature for any lower one but 0."""

SLACK = 1e-3
"""Rounding by which a log-probability may lie above 0."""

FIRST = 8
"""Completions of a draw that are read again to see whether weights and law are the policy's."""


class Answer(NamedTuple):
    """What an engine says it drew for one request.

    Attributes:
        ids: the new tokens, an end token included.
        logps: log-probability of each under the law; at temperature 0 of the model itself.
        read: prompt tokens that were not already in the engine's cache.
    """

    ids: list[int]
    logps: list[float]
    read: int


def served(law: Law) -> None:
    """`ValueError` for a law that vLLM would change on the way, or does not know."""
    if isinstance(law, Heated):
        raise ValueError(
            f"gain={law.gain}: a temperature that follows the entropy is no law of vLLM; take "
            "the engine 'local' or 'speculative', or gain=0"
        )
    if law.min_p > 0 and law.top_p < 1:
        raise ValueError(
            f"min_p={law.min_p} with top_p={law.top_p} is another law there: vLLM cuts by min-p "
            "before top-p, not after; use one of the two"
        )
    if 0 < law.temperature < COLDEST:
        raise ValueError(
            f"temperature={law.temperature} is not served: 0, or at least {COLDEST}, is allowed"
        )


def request_seed(seed: int, request: Request) -> int:
    """63 bits, one for each (seed, prompt, sample, number of tokens that are there already)."""
    name = f"{seed},{prompt_key(request.prompt)},{request.sample},{len(request.begun)}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sampling(lm: LM, request: Request, law: Law, seed: int) -> dict[str, Any]:
    """The law, the seed, the length and the end tokens of a request, by vLLM's names."""
    return {
        **law.describe(),
        "seed": request_seed(seed, request),
        "max_tokens": request.length,
        "stop_token_ids": sorted(lm.ends),
        "ignore_eos": True,  # what the engine takes for an end token need not be one of ours
    }


def check(lm: LM, request: Request, answer: Answer, who: str) -> None:
    """`ValueError` for an answer that cannot be one to this request."""
    ids, logps = answer.ids, answer.logps
    if len(ids) != len(logps) or not 1 <= len(ids) <= request.length:
        raise ValueError(
            f"{who} gave {len(ids)} tokens and {len(logps)} log-probabilities where 1 to "
            f"{request.length} of each were asked for"
        )
    words = lm.base.get_output_embeddings().weight.shape[0]
    for word in ids:
        if type(word) is not int or not 0 <= word < words:
            raise ValueError(f"{who} gave token {word!r}, which the policy's {words} words lack")
    for value in logps:
        if type(value) not in (int, float) or not -sys.float_info.max <= value <= SLACK:
            raise ValueError(
                f"{who} gave the log-probability {value!r}: a finite number up to 0 is allowed"
            )
    over = [place for place, word in enumerate(ids) if word in lm.ends]
    if over and over[0] < len(ids) - 1:
        raise ValueError(f"{who} went on after the end token {ids[over[0]]}")
    if not over and len(ids) < request.length:
        raise ValueError(
            f"{who} stopped after {len(ids)} of {request.length} tokens, at {ids[-1]}, which is "
            f"no end token of the policy ({', '.join(map(str, sorted(lm.ends)[:8]))})"
        )


def accepted(
    lm: LM,
    requests: Sequence[Request],
    answers: Sequence[Answer],
    law: Law,
    tolerance: float,
    who: str,
) -> Drawn:
    """Completions of checked answers.

    Where the law truncates, `raw` and `support` come from the policy, which reads the tokens
    again: the engine tells log-probabilities under the law only. In any case the policy reads the
    first answers of each draw, to see that they are its own, see `confirm`: whatever was seen
    before, as a run that is resumed has seen nothing, and its ledger must not tell.
    """
    drawn = [answer.ids for answer in answers]
    told = [[min(value, 0.0) for value in answer.logps] for answer in answers]
    raws, verified = told, 0
    supports: list[list[list[int]] | None] = [None] * len(told)
    if law.truncates:
        judged = rescored(lm, requests, drawn, law)
        raws, supports = [each.raw for each in judged], [each.support for each in judged]
        verified = tokens(requests, drawn)
    found = [
        Completion(ids, [0.0] * len(ids) if law.greedy else logp, raw, ids[-1] in lm.ends, support)
        for ids, logp, raw, support in zip(drawn, told, raws, supports, strict=True)
    ]
    first, ids, logps = requests[:FIRST], drawn[:FIRST], [a.logps for a in answers[:FIRST]]
    confirm(lm, first, ids, logps, law, tolerance, who)
    verified += tokens(first, ids)
    return Drawn(found, sum(answer.read for answer in answers), verified=verified)


def tokens(requests: Sequence[Request], drawn: Sequence[Sequence[int]]) -> int:
    """Tokens of whole rows: what is read before the first new token, and the new ones."""
    return sum(len(request.read) + len(ids) for request, ids in zip(requests, drawn, strict=True))


def signature(lm: LM) -> int:
    """A number that changes when a weight of the policy is written to, or replaced."""
    spread = of_shares(lm)
    if spread is not None:
        return spread
    return hash(tuple((id(w), w.data_ptr(), w._version) for w in lm.model.parameters()))


def checkpoint(lm: LM) -> dict[str, torch.Tensor]:
    """The weights the policy computes with, LoRA merged, by their names in a checkpoint."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(lm.base, effective_weights(lm.model))


def write(lm: LM, folder: str, weights: dict[str, torch.Tensor]) -> None:
    """Save effective weights and the config as a checkpoint in Hugging Face format.

    Raises:
        OSError: a file could not be written, with its name.
    """
    with named(Path(folder)):
        lm.base.save_pretrained(folder, state_dict=weights)
