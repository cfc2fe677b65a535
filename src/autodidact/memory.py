"""Memory that does not suffice: work over the vocabulary is then made in smaller chunks.

The first walk whose buffers cannot be allocated is made again with half the tokens in a chunk, and
so are all later ones of the process. That is said once. Another failure is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass
class Memory:
    """What was learned about the memory of this process.

    Attributes:
        parts: a chunk is this part of what it would be: 1, or 2 after a failed allocation.
        said: what is still to be told about that.
    """

    parts: int = 1
    said: list[str] = field(default_factory=list)

    def tell(self) -> list[str]:
        """What is to be told, once."""
        told, self.said = self.said, []
        return told


MEMORY = Memory()


def exhausted(error: RuntimeError) -> bool:
    """Whether an error says that memory is used up: of a GPU, or of torch's own CPU allocator."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in said and "memory" in said
    )


def halved(work: Callable[[], T], chunk: int) -> T:
    """What the work gives; if memory does not suffice, what it gives over half as large chunks.

    Args:
        chunk: tokens that the work takes at a time.

    Raises:
        RuntimeError: what the work raised, where chunks are halved already or of one token.
    """
    try:
        return work()
    except RuntimeError as error:
        if MEMORY.parts > 1 or chunk == 1 or not exhausted(error):
            raise
        reason = str(error).splitlines()[0]
    # Out of the handler, so that nothing holds what was allocated.
    MEMORY.parts = 2
    MEMORY.said.append(
        f"out of memory over chunks of {chunk} tokens ({reason}); from now on they are half as "
        "large, which may change the last bits of numbers"
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return work()
