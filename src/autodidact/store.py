"""The store: rollouts written once and read by several arms, so that they see the same tokens.

One SQLite file. A rollout is named by everything that determines it: the version of the weights,
the sampling law, the length, the seed, the prompt and the number of the sample.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Completion:
    """Tokens that a policy chose after one prompt.

    Attributes:
        ids: the tokens, the end token included if it was drawn.
        logp: log-probability of each under the law it was drawn from (temperature and truncation).
        raw: the same without truncation, at the same temperature.
        finished: whether an end token was drawn before the length ran out.
    """

    ids: list[int]
    logp: list[float]
    raw: list[float]
    finished: bool


class Store:
    """A file of completions, safe to share between processes."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self._base.execute("pragma journal_mode=wal")
        self._base.execute(
            "create table if not exists completions "
            "(key text primary key, origin text, prompt blob, ids blob, logp blob, raw blob, "
            "finished int)"
        )

    def find(self, origin: dict, prompt: Sequence[int], sample: int) -> Completion | None:
        row = self._base.execute(
            "select ids, logp, raw, finished from completions where key = ?",
            (_key(origin, prompt, sample),),
        ).fetchone()
        if row is None:
            return None
        return Completion(
            list(array("q", row[0])),
            list(array("d", row[1])),
            list(array("d", row[2])),
            bool(row[3]),
        )

    def add(self, origin: dict, prompt: Sequence[int], sample: int, completion: Completion) -> None:
        self._base.execute(
            "insert or ignore into completions values (?, ?, ?, ?, ?, ?, ?)",
            (
                _key(origin, prompt, sample),
                json.dumps(origin, sort_keys=True),
                array("q", prompt).tobytes(),
                array("q", completion.ids).tobytes(),
                array("d", completion.logp).tobytes(),
                array("d", completion.raw).tobytes(),
                int(completion.finished),
            ),
        )

    def __len__(self) -> int:
        return self._base.execute("select count(*) from completions").fetchone()[0]

    def __iter__(self) -> Iterator[tuple[dict, list[int], Completion]]:
        """Every stored rollout: its origin, the prompt and the completion."""
        for origin, prompt, ids, logp, raw, finished in self._base.execute(
            "select origin, prompt, ids, logp, raw, finished from completions order by rowid"
        ):
            yield (
                json.loads(origin),
                list(array("q", prompt)),
                Completion(
                    list(array("q", ids)),
                    list(array("d", logp)),
                    list(array("d", raw)),
                    bool(finished),
                ),
            )

    def close(self) -> None:
        self._base.close()


def _key(origin: dict, prompt: Sequence[int], sample: int) -> str:
    text = json.dumps([origin, list(prompt), sample], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
