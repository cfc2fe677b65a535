"""Rows of user data, each with the place it came from.

A row that cannot be read is a row with a `fault`, so that the reader of a long file decides
whether to stop there or to go on without it. A file of which nothing can be read is a `ValueError`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from autodidact.tasks.values import LONGEST, fault_of, named, short

READERS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Kinds of file that `read` knows, by how their names end."""

HELD_OUT = ("test", "validation", "valid", "dev")
"""Names of a held-out split, the first one present is taken."""


@dataclass(frozen=True)
class Row:
    """One row: `at` (`"file.jsonl:17"`), its values by column, or the fault found instead."""

    at: str
    values: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


def sources(path: str, split: str, config: str | None) -> tuple[list[Row], list[Row] | None]:
    """The rows of a file, a folder or a data set of the hub, and held-out rows if it has any.

    A folder with a file `train.jsonl` (or `.csv`, ...) and perhaps `test.jsonl` is read as these
    files; any other folder, and a hub name such as `openai/gsm8k`, by the library `datasets`.

    Raises:
        ValueError: nothing is there, or it cannot be read.
    """
    place = Path(path)
    if place.is_file():
        return read(place), None
    if place.is_dir():
        if (train := _file_of(place, split)) is not None:
            held_out = [_file_of(place, name) for name in HELD_OUT if name != split]
            return read(train), next((read(file) for file in held_out if file), None)
    elif place.suffix.lower() in READERS or not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise ValueError(f"{path}: {_no_file(place)}; a data set of the hub is named owner/name")
    return _from_datasets(path, split, config)


def read(path: Path) -> list[Row]:
    """The rows of one file. `ValueError`: unknown kind, empty, or not readable at all."""
    kind = path.suffix.lower()
    if kind not in READERS:
        raise ValueError(
            f"{path}: files {kind or 'without ending'} are not read; allowed: " + ", ".join(READERS)
        )
    if not path.is_file():
        raise ValueError(f"{path}: {_no_file(path)}")
    if kind == ".parquet":
        rows = list(_parquet(path))
    elif kind in (".csv", ".tsv"):
        rows = list(_csv(path, "\t" if kind == ".tsv" else ","))
    elif kind == ".json" and _bytes(path).lstrip().startswith(b"["):
        rows = list(_json(path))
    else:
        rows = list(_jsonl(path))
    if not rows:
        raise ValueError(f"{path}: the file holds no rows; at least one is needed")
    return rows


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_bytes(path).split(b"\n"), 1):
        at = f"{path}:{number}"
        if not line.strip():
            continue
        if len(line) > LONGEST:
            yield Row(at, fault=f"{len(line)} bytes in a row; at most {LONGEST} are read")
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Row(
                at,
                fault=f"byte {error.start + 1} is no UTF-8 ({error.reason}); allowed: UTF-8 text",
            )
            continue
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            yield Row(
                at,
                fault=f"broken JSON at column {error.colno}: {error.msg}; found "
                f"{short(text)}; allowed: one JSON object a line",
            )
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, deep nesting
            yield Row(at, fault=f"JSON that cannot be read: {error}")
        else:
            yield _object(at, values)


def _json(path: Path) -> Iterator[Row]:
    text = _text(path)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: broken JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: JSON that cannot be read: {error}") from error
    decoder, at, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:  # once more, object by object, to know their lines
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        values, at = decoder.raw_decode(text, at)
        yield _object(f"{path}:{line}", values)


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise ValueError(f"{path}:1: a column name stands twice in {named(names)}")
        line = reader.line_num + 1
        for values in reader:
            at, line = f"{path}:{line}", reader.line_num + 1
            extra = values.pop(None, [])
            found = sum(value is not None for value in values.values()) + len(extra)
            if found != len(names):
                yield Row(at, fault=f"{found} fields; the header has {len(names)}: {named(names)}")
            else:
                yield _row(at, values)
    except csv.Error as error:
        raise ValueError(f"{path}:{line}: broken CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        table.validate(full=True)
        rows = table.to_pylist()
    # What damaged bytes make: sizes, dates and characters that there are none of.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: no readable Parquet file: {short(str(error))}") from error
    for number, values in enumerate(rows, 1):
        yield _row(f"{path}: row {number}", values)


def _from_datasets(path: str, split: str, config: str | None) -> tuple[list[Row], list[Row] | None]:
    import datasets

    folder = Path(path)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config)
    # What `datasets` raises for a folder without data, a name that is not there, a wrong
    # configuration, no network, and files that do not fit together.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{path}: no data could be loaded from this folder or hub name: "
            f"{error.__cause__ or error}"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return _rows_of(path, loaded), None
    if split not in loaded:
        raise ValueError(f"{path}: no split {split!r}; present: {', '.join(loaded)}")
    held_out = next((name for name in HELD_OUT if name in loaded and name != split), None)
    return (
        _rows_of(f"{path}[{split}]", loaded[split]),
        _rows_of(f"{path}[{held_out}]", loaded[held_out]) if held_out else None,
    )


def _rows_of(name: str, dataset: Any) -> list[Row]:
    if len(dataset) == 0:
        raise ValueError(f"{name}: the data set holds no rows; at least one is needed")
    return [_row(f"{name}: row {i}", dict(values)) for i, values in enumerate(dataset, 1)]


def _object(at: str, values: Any) -> Row:
    if isinstance(values, dict):
        return _row(at, values)
    return Row(at, fault=f"found a {type(values).__name__}; allowed: one JSON object")


def _row(at: str, values: dict[str, Any]) -> Row:
    """A row of its values, or of what is wrong with them."""
    fault = fault_of(values)
    return Row(at, values) if fault is None else Row(at, fault=fault)


def _bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path}:1: UTF-16 text; allowed: UTF-8 text")
    if b"\0" in raw[:4]:
        raise ValueError(f"{path}:1: UTF-16 text or no text at all; allowed: UTF-8 text")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _text(path: Path) -> str:
    raw = _bytes(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: a byte that is no UTF-8 ({error.reason}); allowed: UTF-8 text"
        ) from error


def _file_of(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}{kind}" for kind in READERS if (folder / f"{name}{kind}").is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{folder}: several files for {name!r}: " + ", ".join(file.name for file in found)
        )
    return found[0] if found else None


def _no_file(path: Path) -> str:
    """Why a path is not one of a file, with the nearest one that is."""
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)!r}, where nothing is"
    if path.exists():
        return "neither a file nor a folder" if not path.is_dir() else "a folder, not a file"
    return f"no such file or folder{_nearest_file(path)}"


def _nearest_file(path: Path) -> str:
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    match = get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {str(path.parent / match[0])!r}?" if match else ""
