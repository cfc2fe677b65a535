"""The store: rollouts written once and read by several arms, so that they see the same tokens.

One SQLite file. A rollout is named by everything that determines it: the version of the weights,
the sampling law, the length, the seed, the prompt and the number of the sample.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


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


def _write_ahead(base: sqlite3.Connection) -> None:
    """Let readers and a writer work side by side.

    While another process opens the same new file this is refused at once, without the wait that
    any other statement has: it is asked again.
    """
    for tries in range(TRIES, 0, -1):
        try:
            base.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if tries == 1 or "locked" not in str(error):
                raise
            time.sleep(PAUSE)


TRIES, PAUSE = 200, 0.05
"""How often, and after how many seconds, a file that another process opens is asked for again."""


class Table:
    """Records in a file, under keys; safe to share between processes, and with some that are
    killed: a record is there as a whole or not at all, and one that was damaged is known.

    Attributes:
        name, columns: of the table, without its key and the digest of a record.

    Raises:
        ValueError: the file is damaged, or none of this kind.
        OSError: it cannot be opened or written.
    """

    name: ClassVar[str]
    columns: ClassVar[str]

    def __init__(self, path: Path | str):
        self.path = Path(path)
        with self._named():
            self._base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            _write_ahead(self._base)
            self._base.execute(
                f"create table if not exists {self.name} "
                f"(key text primary key, {self.columns}, digest blob)"
            )

    def __len__(self) -> int:
        with self._named():
            return self._base.execute(f"select count(*) from {self.name}").fetchone()[0]

    def close(self) -> None:
        self._base.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is put while this is open is in the file as a whole or, after a kill, not at all.

        So whoever goes on finds all rows of a batch or none, and computes what was computed.
        """
        with self._named():
            self._base.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._base.rollback()
            raise
        with self._named():
            self._base.execute("commit")

    def put(self, key: str, *values: Any) -> None:
        """A record, unless there is one under that key."""
        whole = (key, *values)
        places = ", ".join("?" * (len(whole) + 1))
        with self._named():
            self._base.execute(
                f"insert or ignore into {self.name} values ({places})", (*whole, _digest(whole))
            )

    def get(self, key: str) -> tuple[Any, ...] | None:
        """The record under a key."""
        return next(self._records("where key = ?", key), None)

    def _records(self, where: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with self._named():
            found = self._base.execute(f"select * from {self.name} {where}", values)
            for *whole, digest in found:
                if digest != _digest(whole):
                    raise ValueError(
                        f"{self.path}: the record {whole[0]} is not as it was written; delete the "
                        "file to begin anew"
                    )
                yield tuple(whole[1:])

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of SQLite, with the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_ERROR":
                raise ValueError(f"{self.path} is no file of {self.name}: {error}") from error
            raise OSError(errno.EIO, str(error), str(self.path)) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is no file of {self.name}, or is damaged: {error}; delete it to "
                "begin anew"
            ) from error


class Store(Table):
    """A file of completions."""

    name = "rollouts"
    columns = "origin text, prompt blob, ids blob, logp blob, raw blob, finished int, support blob"

    def find(self, origin: dict, prompt: Sequence[int], sample: int) -> Completion | None:
        row = self.get(_key(origin, prompt, sample))
        return None if row is None else _completion(*row[2:])

    def add(self, origin: dict, prompt: Sequence[int], sample: int, completion: Completion) -> None:
        self.put(
            _key(origin, prompt, sample),
            json.dumps(origin, sort_keys=True),
            array("q", prompt).tobytes(),
            array("q", completion.ids).tobytes(),
            array("d", completion.logp).tobytes(),
            array("d", completion.raw).tobytes(),
            int(completion.finished),
            _packed(completion.support),
        )

    def __iter__(self) -> Iterator[tuple[dict, list[int], Completion]]:
        """Every stored rollout: its origin, the prompt and the completion."""
        for origin, prompt, *fields in self._records("order by rowid"):
            yield json.loads(origin), list(array("q", prompt)), _completion(*fields)


def _digest(values: Iterable[Any]) -> bytes:
    """Of a record; SQLite has none of its own."""
    found = hashlib.blake2b(digest_size=16)
    for value in values:
        each = value if isinstance(value, bytes) else repr(value).encode()
        found.update(len(each).to_bytes(8, "big") + each)
    return found.digest()


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
