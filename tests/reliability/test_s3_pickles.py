"""S3: checkpoints and models are safetensors and JSON; a pickle is refused unless asked by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from autodidact import api
from autodidact.model import load
from autodidact.places import locate

PLAIN = {".safetensors", ".json", ".jinja", ".txt", ".jsonl", ".html", ".md"}


class Canary:
    """Unpickled without care it makes a file."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mknod, (str(self.place),)


@pytest.fixture
def pickled(tmp_path, tiny) -> Path:
    """The tiny model with its weights in a pickle."""
    folder = tmp_path / "pickled"
    shutil.copytree(locate("tiny"), folder)
    (folder / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_refused_by_name(pickled):
    with pytest.raises(ValueError, match=r"pytorch_model\.bin only, a pickle.*unsafe_load"):
        load(str(pickled))


def test_pickled_weights_load_when_asked_for_and_this_is_said(pickled, tiny, capsys):
    found = load(str(pickled), unsafe_load=True)
    assert "unsafe_load: " in (said := capsys.readouterr().err) and "pytorch_model.bin" in said
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])


def test_safetensors_come_first_also_when_pickles_may_be_read(pickled, tiny, tmp_path, capsys):
    shutil.copy(Path(locate("tiny")) / "model.safetensors", pickled)
    torch.save({"hostile": Canary(tmp_path / "ran")}, pickled / "pytorch_model.bin")
    load(str(pickled), unsafe_load=True)
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().err == "", "nothing unsafe was done"


def test_a_pickle_that_was_asked_for_still_runs_nothing(pickled, tmp_path):
    torch.save({"hostile": Canary(tmp_path / "ran")}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no model could be loaded"):
        load(str(pickled), unsafe_load=True)
    assert not (tmp_path / "ran").exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists(), "the pickle is a hostile one"


@pytest.mark.slow
def test_a_run_writes_no_pickle_and_says_what_it_was_allowed(pickled, tmp_path):
    out = api.train(
        "sft", model=str(pickled), unsafe_load=True, task="tiny_calculation", steps=1, rows=2,
        eval_points=0, eval_problems=2, eval_samples=1, eval_length=4, out=tmp_path / "run",
    )  # fmt: skip
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"optimizer.safetensors", "model.safetensors"} <= {path.name for path in files}
    assert {path.suffix for path in files if not path.name.startswith(".")} <= PLAIN
    for path in files:
        assert not path.read_bytes().startswith((b"\x80", b"PK\x03\x04")), path
    assert json.loads((out / "run.json").read_text())["spec"]["unsafe_load"] is True
