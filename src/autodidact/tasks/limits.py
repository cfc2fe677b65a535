"""What a process that runs users' functions may take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from autodidact.names import choose

HOME = (
    "HOME", "PYTHONPATH", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
)  # fmt: skip
"""Variables beside `worker.KEPT` by which users' functions find their files."""


@dataclass(frozen=True)
class Limits:
    """Limits of the process in which users' rewards run.

    Attributes:
        seconds: wall time of a call, for all completions and functions together.
        memory: GiB of address space beyond what the process has when the functions are loaded; 0
            for no limit, which CUDA needs. 8 leaves room for a judge of 3 billion weights in 16
            bits, and ends what runs away before a machine with 16 GiB begins to swap.
        unscorable: the share of the completions of a call on which a function may fail; on more,
            the run stops.
        env: names of the variables of the environment that the functions read, such as
            `OPENAI_API_KEY`. No other that could hold a secret is there.
    """

    seconds: float = 60.0
    memory: float = 8.0
    unscorable: float = 0.5
    env: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds={self.seconds}; allowed: a number above 0")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory={self.memory}; allowed: GiB, or 0 for no limit")
        if not 0 <= self.unscorable <= 1:
            raise ValueError(f"unscorable={self.unscorable}; allowed: a share from 0 to 1")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"env={name!r}; allowed: names of variables, not their values")

    @classmethod
    def of(cls, text: str) -> Limits:
        """The limits written as `seconds=300,memory=0,env=OPENAI_API_KEY,env=JUDGE_URL`.

        Raises:
            ValueError: an unknown name, or a value that is not allowed.
        """
        numbers: dict[str, float] = {}
        env: list[str] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (piece.strip() for piece in part.partition("="))
            choose("limit", name, [each.name for each in fields(cls)])
            if name == "env":
                env.append(value)
                continue
            try:
                numbers[name] = float(value)
            except ValueError:
                raise ValueError(f"limit {part!r}; allowed: {name}=NUMBER") from None
        return cls(**numbers, env=tuple(env))

    @property
    def bytes(self) -> int | None:
        """The memory in bytes, `None` for no limit."""
        return int(self.memory * 2**30) or None

    @property
    def environment(self) -> tuple[str, ...]:
        """Names of all variables that the functions see, those of `worker.KEPT` aside."""
        return (*HOME, *self.env)
