"""F1: a process that is killed at any file operation of a checkpoint leaves a complete one."""

from __future__ import annotations

import shutil

import pytest
from stepped import Fault, Kill, marked, refuse, resumed, saved, says

from autodidact import checkpoint, files


def test_every_operation_of_a_save_may_be_the_last(two, tmp_path, monkeypatch):
    found, folder = two
    ends, at, died = [], 0, True
    while died:
        at += 1
        place = tmp_path / str(at)
        shutil.copytree(folder, place)
        fault, died = Fault(at), False
        with monkeypatch.context() as patch:
            fault.patch(patch)
            try:
                saved(found, place, 3)
            except Kill:
                died = True
        ends.append(resumed(found, place))
        # What was interrupted can be done again.
        saved(found, place, 3)
        assert resumed(found, place) == 3
        shutil.rmtree(place)
    assert len(fault.seen) == at - 1 == len(ends) - 1
    assert ends == sorted(ends) and {2, 3} == set(ends), "no way back once it is there"
    assert {"open", "tensors", "fsync", "rename", "mkdir", "rmdir"} <= set(fault.seen)
    # Every file and folder is on the disk before the rename, the rename before anything is deleted.
    last = max(i for i, what in enumerate(fault.seen) if what in ("open", "tensors", "mkdir"))
    after = fault.seen[last + 1 :]
    kept = list((folder / "step-000002").rglob("*"))
    assert after[: after.index("rename")] == ["fsync"] * (len(kept) + 1)
    assert after[after.index("rename") + 1] == "fsync"


def test_a_first_save_that_is_killed_leaves_nothing_that_looks_like_one(two, tmp_path, monkeypatch):
    found, _ = two
    for at in (1, 5, 9):
        with monkeypatch.context() as patch:
            Fault(at).patch(patch)
            with pytest.raises(Kill):
                saved(found, tmp_path / "new", 1)
        assert checkpoint.complete(tmp_path / "new") == []
        files.tidy(tmp_path / "new")
        assert checkpoint.resume(found, tmp_path / "new", warn=refuse) is None


def test_saving_twice_at_a_step_never_takes_the_first_away(two, tmp_path, monkeypatch):
    found, folder = two
    shutil.copytree(folder, tmp_path / "again")
    marked(found, 2)
    fault = Fault()
    with monkeypatch.context() as patch:
        fault.patch(patch)
        path = checkpoint.save(found, tmp_path / "again")
    assert path.name == "step-000002" and fault.seen == [], "it is there, and is only read"


def test_a_damaged_one_of_the_same_step_is_set_aside(two, tmp_path):
    found, folder = two
    place = tmp_path / "torn"
    shutil.copytree(folder, place)
    (place / "step-000002" / "model.safetensors").write_bytes(b"torn")
    saved(found, place, 2)
    assert (place / "damaged-step-000002" / "model.safetensors").read_bytes() == b"torn"
    marked(found, 0)
    checkpoint.resume(found, place, warn=refuse)
    assert says(found) == 2


def test_a_folder_is_deleted_under_another_name(two, tmp_path, monkeypatch):
    """Killed half-way, a checkpoint that is too old must not look like a complete one."""
    _, folder = two
    shutil.copytree(folder, tmp_path / "old")
    with monkeypatch.context() as patch:
        Fault(3).patch(patch)
        with pytest.raises(Kill):
            files.remove(tmp_path / "old" / "step-000001")
    assert [path.name for path in checkpoint.complete(tmp_path / "old")] == ["step-000002"]
    files.tidy(tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["step-000002"]
