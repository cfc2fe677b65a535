"""Whether a tokenizer, its chat template and a model fit together, seen on the first problem."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from autodidact.model import LM
from autodidact.problem import Message, Task
from autodidact.rollouts.sample import opening

SHOWN = 200
"""Characters of a rendered prompt that a message quotes, from each end."""


def check_rendering(lm: LM, task: Task) -> None:
    """Refuse what makes nonsense of every prompt, and warn of what may, with the rendered prompt.

    Raises:
        ValueError: the model has no row for a token that prompts or completions hold, or the chat
            template does not write what the user says.
    """
    problem = task.train[0]
    messages = task.prompt(problem)
    prompt, places = opening(lm, task, problem)
    text = _shown(lm, prompt)
    used = {*prompt, *lm.ends, *(word for word in places if word is not None)}
    _check_rows(lm, used if lm.causal else {*used, lm.mask}, text)
    if messages:
        for fault in (*_faults(lm, messages, prompt), *_specials(lm, task)):
            warnings.warn(f"{lm.name}: {fault}; the first prompt: {text}", stacklevel=3)


def _check_rows(lm: LM, used: set[int], text: str) -> None:
    """Refuse tokens in use that the model has no row for; warn of others."""
    rows = lm.base.get_input_embeddings().weight.shape[0]
    beyond = sorted(word for word in used if word >= rows)
    if beyond:
        name = lm.tokenizer.convert_ids_to_tokens(beyond[0])
        raise ValueError(
            f"the tokenizer of {lm.name} writes {name!r} as token {beyond[0]}, and the model has "
            f"{rows} rows: they do not belong together; the first prompt: {text}"
        )
    more = sum(word >= rows for word in lm.tokenizer.get_vocab().values())
    if more:
        warnings.warn(
            f"{lm.name}: {more} tokens of the tokenizer are beyond the {rows} rows of the model, "
            "which stops where data holds one",
            stacklevel=4,
        )


def _faults(lm: LM, messages: Sequence[Message], prompt: Sequence[int]) -> list[str]:
    """What may be wrong with a rendered prompt, in words."""
    found, tokenizer = [], lm.tokenizer
    begin, unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
    if begin is not None and list(prompt[:2]) == [begin, begin]:
        found.append(f"prompts begin with {tokenizer.bos_token!r} twice")
    if unknown is not None and (count := list(prompt).count(unknown)):
        found.append(f"{count} tokens of the first prompt are unknown to the tokenizer")
    if tokenizer.chat_template is None:
        return [*found, "the tokenizer has no chat template, so messages stand in a line each"]
    *before, last = messages
    if lm.render([*before, {**last, "content": last["content"] + " 1 2 3"}]) == list(prompt):
        raise ValueError(
            f"the chat template of {lm.name} does not write what the user says; the first prompt: "
            f"{_shown(lm, prompt)}"
        )
    turn = lm.render([*messages, {"role": "assistant", "content": "1"}], answered=True)
    same = next((i for i, pair in enumerate(zip(turn, prompt, strict=False)) if len({*pair}) > 1),
                min(len(turn), len(prompt)))  # fmt: skip
    if not lm.ends.intersection(turn[same:]):
        ends = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(lm.ends))))
        found.append(
            f"the chat template ends an answer with {tokenizer.decode(turn[same:])!r}, which holds "
            f"no token that ends a completion ({ends})"
        )
    return found


def _specials(lm: LM, task: Task) -> list[str]:
    """Whether data holds the names of special tokens, which are read as these tokens."""
    known = lm.tokenizer.added_tokens_decoder.values()
    names = {str(token) for token in known if token.special and str(token).strip()}
    if not names:
        return []
    pattern = re.compile("|".join(map(re.escape, sorted(names))))
    held = [p for p in task.train if pattern.search(f"{p.question}\n{p.solution or ''}")]
    if not held:
        return []
    name = pattern.search(f"{held[0].question}\n{held[0].solution or ''}")
    assert name is not None
    return [
        f"{len(held)} problems hold special tokens of the tokenizer in their text, the first "
        f"{name[0]!r} in {held[0].place}"
    ]


def _shown(lm: LM, ids: Sequence[int]) -> str:
    """A prompt as text, special tokens included, its middle left out where it is long."""
    text = lm.tokenizer.decode(list(ids))
    return repr(text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}")
