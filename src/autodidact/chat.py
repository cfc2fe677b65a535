"""What a tokenizer makes of chat messages, and whether two of them mean the same by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autodidact.problem import Message

if TYPE_CHECKING:
    from autodidact.model import LM


RENDERED = 10_000
"""Prompts whose tokens are remembered. There may be no end of them: some quote what was drawn."""


def remembered(
    lm: LM,
    known: dict[Any, list[int]],
    messages: Sequence[Message],
    thinking: bool | None,
    answered: bool,
) -> list[int]:
    """As `rendered`, where it is not known; then it is, and it may be that all others are not."""
    key = (thinking, answered, *((m["role"], m["content"]) for m in messages))
    found = known.get(key)
    if found is None:
        if len(known) >= RENDERED:
            known.clear()
        found = known[key] = rendered(lm, messages, thinking, answered)
    return found


def rendered(
    lm: LM, messages: Sequence[Message], thinking: bool | None, answered: bool
) -> list[int]:
    """Token ids of messages by the chat template, up to where the assistant begins.

    A tokenizer without a template gets the contents one after the other, a line each.

    Args:
        thinking: thinking mode; `None` leaves the template its default.
        answered: the assistant has spoken last, and nothing is begun.

    Raises:
        ValueError: the template refuses the messages, or makes nothing of them.
    """
    from jinja2 import TemplateError

    if lm.tokenizer.chat_template is None:
        ids = lm.tokenizer("".join(m["content"] + "\n" for m in messages))["input_ids"]
    else:
        options = {} if thinking is None else {"enable_thinking": thinking}
        try:
            ids = lm.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=not answered, return_dict=False, **options
            )
        except TemplateError as error:
            raise ValueError(
                f"the chat template of {lm.name} refuses messages of "
                f"{[message['role'] for message in messages]}: {error}"
            ) from error
    if not ids:
        raise ValueError(f"the prompt {messages!r} renders to no token at all")
    return list(ids)


def same_vocabulary(role: str, other: LM, policy: LM) -> None:
    """Refuse a role whose tokenizer has other words or ids; sizes may agree where ids do not."""
    theirs, ours = other.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    if theirs != ours:
        word = min(w for w in theirs.keys() | ours.keys() if theirs.get(w) != ours.get(w))
        raise ValueError(
            f"role {role!r} has another vocabulary than {policy.name!r}: {word!r} is its token "
            f"{theirs.get(word)}, and {ours.get(word)} here"
        )
