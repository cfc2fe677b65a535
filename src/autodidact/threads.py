"""Threads that read packed views at the same time, each with answers of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping
from typing import Any


class _Told(threading.local):
    def __init__(self, start: MutableMapping[str, Any]):
        self.here = dict(start)


class _PerThread(MutableMapping[str, Any]):
    """A mapping that every thread changes for itself, from the same start."""

    def __init__(self, start: MutableMapping[str, Any]):
        self._told = _Told(start)

    def __getitem__(self, key: str) -> Any:
        return self._told.here[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._told.here[key] = value

    def __delitem__(self, key: str) -> None:
        del self._told.here[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told.here)

    def __len__(self) -> int:
        return len(self._told.here)


def keep_apart() -> None:
    """Let threads read packed views at the same time.

    `attention.inside_documents` answers in tables of transformers that all models share. What is
    written there is from now on seen by the thread that wrote it.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for table in (ALL_MASK_ATTENTION_FUNCTIONS, ALL_ATTENTION_FUNCTIONS):
        if not isinstance(table._local_mapping, _PerThread):
            table._local_mapping = _PerThread(table._local_mapping)  # type: ignore[assignment]
