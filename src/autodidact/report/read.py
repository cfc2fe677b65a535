"""Reads a run directory: the resolved call, every seed's metrics, the diagnoses.

A `train` run is read as one arm with one seed, so that whatever follows knows arms only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodidact.names import choose

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Seed:
    """One trained model: its folder, its step lines and its evaluation lines."""

    seed: int
    folder: Path
    steps: tuple[Line, ...]
    evaluations: tuple[Line, ...]


@dataclass(frozen=True)
class Arm:
    """One method with its arguments, at several seeds."""

    name: str
    arguments: Mapping[str, Any]
    seeds: tuple[Seed, ...]

    @property
    def evaluated(self) -> tuple[Seed, ...]:
        """The seeds that have been evaluated at least once."""
        return tuple(seed for seed in self.seeds if seed.evaluations)


@dataclass(frozen=True)
class Record:
    """A run directory.

    Attributes:
        folder: where it is.
        call: the contents of `run.json`.
        arms: what was trained; one arm for a `train` run.
        diagnoses: what was wrong with the run; each has `level`, `what`, `why`, `remedy`, `step`
            and, in a comparison, `where` (arm and seed).
    """

    folder: Path
    call: Mapping[str, Any]
    arms: tuple[Arm, ...]
    diagnoses: tuple[Line, ...]


def read(directory: Path) -> Record:
    """The contents of a run directory.

    Raises:
        ValueError: the folder holds no `run.json`, its kind is unknown, or a file is not JSON.
    """
    folder = Path(directory)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no run.json")
    call = document(folder / "run.json")
    kind = choose(f"{folder / 'run.json'}: kind", str(call.get("kind")), ("train", "compare"))
    diagnoses = list(complaints(folder, None))
    if kind == "train":
        method = call["method"]
        arms = [Arm(method["name"], method.get("arguments", {}), (seed(folder, call["seeds"][0]),))]
    else:
        arms = []
        for arm in call["arms"]:
            seeds = []
            for number in call["seeds"]:
                place = folder / "arms" / arm["name"] / f"seed-{number}"
                if place.is_dir():
                    seeds.append(seed(place, number))
                    diagnoses += complaints(place, f"{arm['name']}, seed {number}")
            arms.append(Arm(arm["name"], arm.get("arguments", {}), tuple(seeds)))
    return Record(folder, call, tuple(arms), tuple(diagnoses))


def seed(folder: Path, number: int) -> Seed:
    """The metrics of one trained model."""
    found = lines(folder / "metrics.jsonl")
    steps = tuple(line for line in found if line["kind"] == "step")
    return Seed(number, folder, steps, tuple(line for line in found if line["kind"] == "eval"))


def complaints(folder: Path, where: str | None) -> list[Line]:
    """The diagnoses written in one folder, with the arm and seed they are about."""
    path = folder / "diagnoses.json"
    return [{**found, "where": where} for found in document(path)] if path.is_file() else []


def document(path: Path) -> Any:
    """A JSON file; a broken one is a `ValueError` that names file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error


def lines(path: Path) -> list[Any]:
    """The objects of a JSONL file, none if it is missing.

    A run that was killed may leave its last line half written: without its newline it is left out.
    """
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(whole, 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return found
