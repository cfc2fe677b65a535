"""What may be written and shown: text without secrets, and without what could steer a terminal.

Secrets are known by where they stand: under a key such as `api_key` or `hf_token`, in front of the
host of a URL, or in a variable of the environment with such a name, whose value is taken out
wherever it turns up. Everything that a run writes or hands to a tracker passes through `redacted`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "***"
"""What stands where a secret stood."""
SHORTEST = 8
"""Characters of a value of the environment that is looked for: a shorter one may be any word."""

_SECRET = re.compile(
    r"key|\w*(token|secrets?|passwords?|passwd|passphrase|credentials?|authorization|apikey)"
)
_HARMLESS = frozenset(
    (
        "eos",
        "bos",
        "pad",
        "mask",
        "unk",
        "sep",
        "cls",
        "end",
        "stop",
        "special",
        "image",
        "id",
        "ids",
    )
)
"""Words that make a token one of a vocabulary: eos_token, pad_token_id."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_USER = re.compile(r"(?<=://)[^/?#\s\"'<>\\]*@")
_QUERY = re.compile(
    r"(?i)(?<=[?&])([\w.-]*(?:token|key|secret|password|signature)=)[^&#\s\"'<>\\]+"
)


@lru_cache(maxsize=4096)
def names_secret(name: str) -> bool:
    """Whether what is called so is a secret: `hf_token` and `apiKey` are, `max_new_tokens` not."""
    words = {word.lower() for word in _WORDS.findall(name)}
    return any(map(_SECRET.fullmatch, words)) and not words & _HARMLESS


def redacted(value: Any) -> Any:
    """The same value, JSON or text, without secrets.

    Under the name of a secret every text is hidden, but one that is itself the name of a variable
    of the environment: that is how options say where a secret is.
    """
    return _redacted(value, _values())


def redacted_text(text: str) -> str:
    """Text without secrets."""
    return _text(text, _values())


def printable(text: object) -> str:
    """Text for a terminal: without secrets, and without the control characters that could steer
    it, which are spelled out."""
    shown = redacted_text(str(text))
    if shown.isprintable():
        return shown
    return "".join(c if _harmless(c) else f"\\x{ord(c):02x}" for c in shown)


def _harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def _values() -> tuple[str, ...]:
    """Values of the environment's secrets, longest first, as one may begin with another."""
    found = {os.environ.get(name, "") for name in list(os.environ) if names_secret(name)}
    return tuple(sorted((v for v in found if len(v) >= SHORTEST), key=len, reverse=True))


def _redacted(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return _text(value, secrets)
    if isinstance(value, Mapping):
        return {
            _text(key, secrets) if isinstance(key, str) else key: _under(key, inside, secrets)
            for key, inside in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(inside, secrets) for inside in value]
    return value


def _under(key: Any, value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str) and isinstance(key, str) and names_secret(key):
        return value if value in set(os.environ) else HIDDEN
    return _redacted(value, secrets)


def _text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
    return text
