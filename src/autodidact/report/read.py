"""Reads a run directory: the resolved call, every seed's metrics, the diagnoses.

A `train` run is read as one arm with one seed, so that whatever follows knows arms only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodidact.names import choose, part

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
            and `where`: the arms and seeds of a comparison that it was said of.
    """

    folder: Path
    call: Mapping[str, Any]
    arms: tuple[Arm, ...]
    diagnoses: tuple[Line, ...]


def read(directory: Path) -> Record:
    """The contents of a run directory.

    Raises:
        ValueError: the folder holds no `run.json`, its kind is unknown, a file is not JSON, or an
            arm has a name that is no folder's.
    """
    folder = Path(directory)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no run.json")
    call = document(folder / "run.json")
    kind = choose(f"{folder / 'run.json'}: kind", str(call.get("kind")), ("train", "compare"))
    if kind == "train":
        method = call["method"]
        arms = [Arm(method["name"], method.get("arguments", {}), (seed(folder, call["seeds"][0]),))]
        return Record(folder, call, tuple(arms), tuple(complaints(arms, False)))
    arms = []
    for arm in call["arms"]:
        home = folder / "arms" / part(f"{folder / 'run.json'}: arm", arm["name"])
        places = [(home / f"seed-{int(n)}", n) for n in call["seeds"]]
        seeds = tuple(seed(place, number) for place, number in places if place.is_dir())
        arms.append(Arm(arm["name"], arm.get("arguments", {}), seeds))
    return Record(folder, call, tuple(arms), tuple(complaints(arms, True)))


def seed(folder: Path, number: int) -> Seed:
    """The metrics of one trained model."""
    found = lines(folder / "metrics.jsonl")
    steps = tuple(line for line in found if line["kind"] == "step")
    return Seed(number, folder, steps, tuple(line for line in found if line["kind"] == "eval"))


def complaints(arms: Sequence[Arm], many: bool) -> list[Line]:
    """The diagnoses of all arms and seeds; what several of them say is said once."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for arm in arms:
        for one in arm.seeds:
            path = one.folder / "diagnoses.json"
            for said in document(path) if path.is_file() else ():
                key = (arm.name, *(said[part] for part in ("level", "what", "why", "remedy")))
                known = found.setdefault(key, {**said, "where": None, "seeds": []})
                known["seeds"].append(one.seed)
                if None not in (known["step"], said["step"]):
                    known["step"] = min(known["step"], said["step"])
                if many:
                    seeds = ", ".join(map(str, known["seeds"]))
                    plural = "s" if len(known["seeds"]) > 1 else ""
                    known["where"] = f"{arm.name}, seed{plural} {seeds}"
    return list(found.values())


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
