"""F1: real SIGKILLs, of a run in the middle of a checkpoint and of a line, and of a store's writer."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from autodidact import files
from autodidact.run import Directory
from autodidact.session import execute
from autodidact.spec import Spec
from autodidact.store import Completion, Store

DIE = """
import os, signal, sys
import safetensors.torch, torch, transformers
from autodidact import files, session
from autodidact.cli import main

torch.set_num_threads(1)
real, append, rename = safetensors.torch.serialize_file, files.append, os.rename
place = sys.argv[1]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def torn_tensors(tensors, filename, metadata=None):
    real(tensors, filename, metadata)
    if str(filename).endswith("step-000002.tmp/training/optimizer.safetensors"):
        os.truncate(filename, 1000)
        die()

def torn_line(path, text):
    if '"step": 3,' in text:
        append(path, text[:40])
        die()
    append(path, text)

def no_rename(old, new):
    if str(new).endswith("step-000002"):
        die()
    rename(old, new)

for moment in ("checkpoint", "line", "rename"):
    child = os.fork()
    if not child:
        if moment == "checkpoint":
            safetensors.torch.serialize_file = torn_tensors
        elif moment == "line":
            files.append = torn_line
        else:
            os.rename = no_rename
        main([*sys.argv[2:], "--out", os.path.join(place, moment)])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, moment
"""

TRAIN = [
    "train",
    "sft",
    "--task",
    "tiny_calculation(train=10,test=2)",
    "--steps",
    "3",
    "--rows",
    "2",
    "--lr",
    "1e-3",
    "--eval-points",
    "1",
    "--eval-problems",
    "1",
    "--eval-samples",
    "1",
    "--eval-length",
    "3",
    "--save-every",
    "1",
    "--quiet",
]


def lines(place: Path) -> list[dict]:
    found = list(Directory(place, resume=True).lines("metrics.jsonl"))
    for line in found:
        del line["ledger"]["seconds"], line["ledger"]["peak_bytes"]
    return found


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_as_if_it_was_not(tmp_path):
    died = subprocess.run(
        [sys.executable, "-c", DIE, str(tmp_path), *TRAIN],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert died.returncode == 0, died.stderr.decode()
    spec = Spec.of(json.loads((tmp_path / "line" / "run.json").read_text())["spec"])
    whole, last = execute(spec, tmp_path / "whole"), "checkpoints/step-000003"
    for moment, left in (("checkpoint", 1), ("line", 2), ("rename", 1)):
        place = tmp_path / moment
        steps = [path.name for path in (place / "checkpoints").glob("step-*")]
        assert max(steps) == f"step-00000{left}"
        assert bool(temporaries(place)) == (moment != "line")
        torn = not (place / "metrics.jsonl").read_bytes().endswith(b"\n")
        assert torn == (moment == "line")
        execute(spec, place, resume=True)
        assert lines(place) == lines(whole)
        for name in ("samples.jsonl", f"{last}/model.safetensors",
                     f"{last}/training/optimizer.safetensors"):  # fmt: skip
            assert (place / name).read_bytes() == (whole / name).read_bytes()
        assert not temporaries(place)


def temporaries(place: Path) -> list[Path]:
    return [path for path in (place / "checkpoints").iterdir() if files.is_temporary(path)]


# ------------------------------------------------------------------ the store


WRITE = """
import os, signal, sys
from autodidact.store import Completion, Store

store = Store(sys.argv[1])
one = Completion([5, 6], [-0.5, -2.0], [-0.5, -1.0], True)
with store.together():
    for i in range(3):
        store.add({"a": 1}, [i], 0, one)
with store.together():
    for i in range(3, 500):
        store.add({"a": 1}, [i], 0, one)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def one(token: int = 5) -> Completion:
    return Completion([token, 6], [-0.5, -2.0], [-0.5, -1.0], True)


def test_a_writer_of_a_store_that_is_killed(tmp_path):
    """What it had put together is there as a whole or not at all, and nobody waits for it."""
    path = tmp_path / "store.sqlite"
    died = subprocess.run(
        [sys.executable, "-c", WRITE, str(path)], capture_output=True, timeout=300, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    store = Store(path)
    assert len(store) == 3 and store.find({"a": 1}, [2], 0) == one()
    assert store.find({"a": 1}, [3], 0) is None
    store.add({"a": 1}, [3], 0, one())
    assert len(list(store)) == 4
    store.close()


def test_what_fails_half_way_is_not_stored(tmp_path):
    store = Store(tmp_path / "store.sqlite")

    def half():
        with store.together():
            store.add({"a": 1}, [1], 0, one())
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert len(store) == 0
    store.add({"a": 1}, [1], 0, one())
    assert len(store) == 1
    store.close()


def written(path: Path) -> None:
    store = Store(path)
    for i in range(200):
        store.add({"a": i}, [1] * 50, 0, one(i))
    store.close()


def test_a_damaged_store_is_named(tmp_path):
    path = tmp_path / "store.sqlite"
    written(path)
    content = path.read_bytes()
    torn = bytearray(content)
    torn[5000:9000] = bytes(range(250)) * 16
    for wrong in (b"hello" * 1000, content[: len(content) // 2], bytes(torn)):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{path} is no file of rollouts, or is damaged"):
            list(Store(path))
    base = sqlite3.connect(tmp_path / "other")
    base.execute("create table rollouts (key text primary key, other int)")
    base.close()
    with pytest.raises(ValueError, match="other is no file of rollouts: table rollouts has 2"):
        Store(tmp_path / "other").add({}, [1], 0, one())
    with pytest.raises(OSError, match="unable to open") as error:
        Store(tmp_path / "nowhere" / "store")
    assert error.value.filename == str(tmp_path / "nowhere" / "store")


def test_one_bit_of_a_stored_token_is_seen(tmp_path):
    path = tmp_path / "store.sqlite"
    written(path)
    base = sqlite3.connect(path)
    (ids,) = base.execute("select ids from rollouts where origin = '{\"a\": 7}'").fetchone()
    flipped = bytes([ids[0] ^ 1, *ids[1:]])
    base.execute("update rollouts set ids = ? where origin = '{\"a\": 7}'", (flipped,))
    base.commit()
    base.close()
    store = Store(path)
    assert store.find({"a": 6}, [1] * 50, 0) == one(6)
    with pytest.raises(ValueError, match=f"{path}: the record .* is not as it was written"):
        store.find({"a": 7}, [1] * 50, 0)
    store.close()
