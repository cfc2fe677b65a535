"""The store: rollouts written once and read by several arms, so that they see the same tokens.

One SQLite file. A rollout is named by everything that determines it: the version of the weights,
the sampling law, the length, the seed, the prompt and the number of the sample.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Completion:
    """Tokens that a policy chose after one prompt.

    Attributes:
        ids: the tokens, the end token included if it was drawn.
        logp: log-probability of each under the law it was drawn from (temperature and truncation).
        raw: the same without truncation, at the same temperature.
        finished: whether an end token was drawn before the length ran out.
        support: the words that truncation left to choose from at each token; `None` where the
            law leaves all, and at temperature 0.
        order: of a masked model the step, from 1 on, at which each token was written, 0 where it
            was given; `None` where tokens follow each other.
    """

    ids: list[int]
    logp: list[float]
    raw: list[float]
    finished: bool
    support: list[list[int]] | None = None
    order: list[int] | None = None

    @property
    def written(self) -> int:
        """Tokens that were drawn."""
        return len(self.ids) if self.order is None else sum(step > 0 for step in self.order)

    def followed(self, by: Completion) -> Completion:
        """These tokens, then those."""
        support = None
        if self.support is not None and by.support is not None:
            support = self.support + by.support
        return Completion(
            self.ids + by.ids, self.logp + by.logp, self.raw + by.raw, by.finished, support
        )


FIELDS = "ids, logp, raw, finished, support"


def _write_ahead(base: sqlite3.Connection) -> None:
    """Let readers and a writer work side by side.

    While another process opens the same new file this is refused at once, without the wait that
    any other statement has: it is asked again.
    """
    for tries in range(TRIES, 0, -1):
        try:
            base.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError:
            if tries == 1:
                raise
            time.sleep(PAUSE)


TRIES, PAUSE = 200, 0.05
"""How often, and after how many seconds, a file that another process opens is asked for again."""


class Table:
    """Records in a file, under keys; safe to share between processes.

    Attributes:
        name, columns: of the table, without its key.
    """

    name: ClassVar[str]
    columns: ClassVar[str]

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        _write_ahead(self._base)
        self._base.execute(
            f"create table if not exists {self.name} (key text primary key, {self.columns})"
        )

    def __len__(self) -> int:
        return self._base.execute(f"select count(*) from {self.name}").fetchone()[0]

    def close(self) -> None:
        self._base.close()


class Store(Table):
    """A file of completions."""

    name = "rollouts"
    columns = "origin text, prompt blob, ids blob, logp blob, raw blob, finished int, support blob"

    def find(self, origin: dict, prompt: Sequence[int], sample: int) -> Completion | None:
        row = self._base.execute(
            f"select {FIELDS} from rollouts where key = ?", (_key(origin, prompt, sample),)
        ).fetchone()
        return None if row is None else _completion(*row)

    def add(self, origin: dict, prompt: Sequence[int], sample: int, completion: Completion) -> None:
        self._base.execute(
            "insert or ignore into rollouts values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                _key(origin, prompt, sample),
                json.dumps(origin, sort_keys=True),
                array("q", prompt).tobytes(),
                array("q", completion.ids).tobytes(),
                array("d", completion.logp).tobytes(),
                array("d", completion.raw).tobytes(),
                int(completion.finished),
                _packed(completion.support),
            ),
        )

    def __iter__(self) -> Iterator[tuple[dict, list[int], Completion]]:
        """Every stored rollout: its origin, the prompt and the completion."""
        for origin, prompt, *fields in self._base.execute(
            f"select origin, prompt, {FIELDS} from rollouts order by rowid"
        ):
            yield json.loads(origin), list(array("q", prompt)), _completion(*fields)


def _key(origin: dict, prompt: Sequence[int], sample: int) -> str:
    text = json.dumps([origin, list(prompt), sample], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _completion(
    ids: bytes, logp: bytes, raw: bytes, finished: int, support: bytes | None
) -> Completion:
    words = list(array("q", ids))
    kept = None if support is None else _unpacked(list(array("q", support)), len(words))
    return Completion(words, list(array("d", logp)), list(array("d", raw)), bool(finished), kept)


def _packed(support: list[list[int]] | None) -> bytes | None:
    """The sizes of the lists, then their words one after the other."""
    if support is None:
        return None
    words = [word for kept in support for word in kept]
    return array("q", [*map(len, support), *words]).tobytes()


def _unpacked(numbers: list[int], tokens: int) -> list[list[int]]:
    words = iter(numbers[tokens:])
    return [[next(words) for _ in range(size)] for size in numbers[:tokens]]
