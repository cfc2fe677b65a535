"""F4: a disk that is full or may not be written: a clear error, and nothing that stood is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import stepped
from stepped import Fault, marked, resumed, says

from autodidact import checkpoint, files
from autodidact.calls import Call
from autodidact.cli import main
from autodidact.run import Directory, Run
from autodidact.session import Watcher, execute
from autodidact.spec import Spec


@contextmanager
def limit(size: int):
    """No file of this process may grow beyond so many bytes: what a full disk looks like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit(two, tmp_path):
    """Each limit stops at another of the files, by another library's writer."""
    found, folder = two
    place, stopped = tmp_path / "two", set()
    shutil.copytree(folder, place)
    sizes = sorted({path.stat().st_size for path in (place / "step-000002").rglob("*.*")})
    for size in sizes[:-1]:
        marked(found, 3)
        with limit(size), pytest.raises(OSError, match="step-000003 was not written") as error:
            checkpoint.save(found, place)
        assert error.value.errno == errno.EFBIG and "File too large" in error.value.strerror
        assert error.value.filename.startswith(str(place))
        stopped.add(Path(error.value.filename).name)
        assert says(found) == 3, "nothing in memory has changed"
        assert {path.name for path in place.iterdir()} == {"step-000001", "step-000002"}
        assert resumed(found, place) == 2
    assert stopped
    marked(found, 3)
    with limit(sizes[-1] * 2):
        checkpoint.save(found, place)
    assert resumed(found, place) == 3


def test_any_operation_of_a_save_may_fail(two, tmp_path, monkeypatch):
    """The disk is full, or, every other time, may not be written."""
    found, folder = two
    at, harmless, called = 0, [], True
    while called:
        at += 1
        number = errno.ENOSPC if at % 2 else errno.EACCES
        place = tmp_path / str(at)
        fault = Fault(at, lambda number=number: OSError(number, os.strerror(number)))
        shutil.copytree(folder, place)
        marked(found, 3)
        error = None
        with monkeypatch.context() as patch:
            fault.patch(patch)
            try:
                checkpoint.save(found, place)
            except OSError as raised:
                error = raised
        called = len(fault.seen) >= at
        if error is not None:
            assert error.filename and "step-000003 was not written" in error.strerror
            assert not [path for path in place.iterdir() if files.is_temporary(path)]
        elif called:
            harmless.append(fault.seen[at - 1])
        assert says(found) == 3
        assert resumed(found, place) == 3 if error is None else resumed(found, place) in (2, 3)
        shutil.rmtree(place)
    assert at > 20 and set(harmless) <= {"mkdir"}, "a folder that is there already"


def test_a_file_in_the_way(two, tmp_path):
    found, _ = two
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(OSError, match="step-000003 was not written") as error:
        stepped.saved(found, tmp_path / "checkpoints", 3)
    assert error.value.filename.startswith(str(tmp_path / "checkpoints"))
    assert (tmp_path / "checkpoints").read_text() == "not a folder"


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines.jsonl"
    files.append(path, '{"step": 1}\n')
    with limit(20), pytest.raises(OSError, match="File too large") as error:
        files.append(path, '{"step": 2}\n')
    assert error.value.filename == str(path)
    assert path.read_text() == '{"step": 1}\n'
    files.append(path, '{"step": 2}\n')
    assert [line["step"] for _, line in files.lines(path)] == [1, 2]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    directory = Directory(tmp_path / "run")
    directory.write("run.json", {"a": 1})
    with limit(20), pytest.raises(OSError, match="File too large"):
        directory.write("run.json", {"a": "b" * 99})
    assert directory.read("run.json") == {"a": 1}
    assert [path.name for path in directory.path.iterdir()] == ["run.json"]


def test_only_a_torn_last_line_is_dropped(tmp_path):
    directory, path = Directory(tmp_path), tmp_path / "lines.jsonl"
    whole = b'{"a": 1}\n\n{"a": "\xc3\xa4"}\n'
    for torn in (b"", b'{"a"', b'{"a": "\xc3', b'{"a": 2'):
        path.write_bytes(whole + torn)
        assert [line["a"] for line in directory.lines("lines.jsonl")] == [1, "ä"]
        directory.cut("lines.jsonl", lambda line: True)
        assert path.read_bytes() == whole.replace(b"\n\n", b"\n")
    path.write_bytes(whole + b'{"a": 3}')
    assert [line["a"] for line in directory.lines("lines.jsonl")] == [1, "ä", 3], "it is whole"
    for damaged in (b'{"a"\n', b"\xc3\n", b'{"a": 1}}\n'):
        path.write_bytes(b'{"a": 1}\n' + damaged + whole)
        with pytest.raises(ValueError, match=f"{path}:2: "):
            list(directory.lines("lines.jsonl"))


# ------------------------------------------------------------------ a whole run


SPEC = Spec(
    Call("sft"), Call("tiny_calculation", {"train": 10, "test": 2}),
    Run(steps=4, rows=2, lr=1e-3, eval_points=1, eval_problems=1, eval_samples=1, eval_length=3,
        save_every=2),
)  # fmt: skip


class Listener(Watcher):
    def __init__(self):
        self.said = []

    def warn(self, text):
        self.said.append(text)


def lines(place: Path) -> list[dict]:
    found = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for line in found:
        del line["ledger"]["seconds"], line["ledger"]["peak_bytes"]
    return found


def weights(place: Path) -> bytes:
    return (place / "checkpoints" / "step-000004" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return execute(SPEC, tmp_path_factory.mktemp("whole") / "run")


@contextmanager
def locked(patch, name: str, calls: range):
    """A file may not be appended to in some of the tries."""
    real, tries = files.append, [0]

    def append(path, text):
        if path.name == name:
            tries[0] += 1
            if tries[0] - 1 in calls:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, text)

    with patch.context() as inner:
        inner.setattr(files, "append", append)
        yield


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_lines_that_cannot_be_written_wait(name, whole, tmp_path, monkeypatch):
    listener = Listener()
    with locked(monkeypatch, name, range(1, 4)):
        place = execute(SPEC, tmp_path / "run", watcher=listener)
    assert (
        len(listener.said) == 1
        and f"{name}: Permission denied; training goes on" in listener.said[0]
    )
    assert lines(place) == lines(whole) and weights(place) == weights(whole)
    assert (place / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_lines_that_are_never_written_are_an_error_and_not_lost(whole, tmp_path, monkeypatch):
    listener, place = Listener(), tmp_path / "run"
    with (
        locked(monkeypatch, "metrics.jsonl", range(2, 999)),
        pytest.raises(PermissionError) as error,
    ):
        execute(SPEC, place, watcher=listener)
    assert error.value.filename == str(place / "metrics.jsonl") and len(listener.said) == 1
    assert weights(place) == weights(whole), "it was trained to the end"
    assert len(lines(place)) < len(lines(whole))
    execute(SPEC, place, resume=True)
    assert lines(place) == lines(whole) and weights(place) == weights(whole)


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_with_a_line(whole, tmp_path, capsys, monkeypatch):
    place, real = tmp_path / "run", checkpoint.save

    def save(training, *args, **kwargs):
        with limit(10**9 if training.step < 4 else 300_000):
            return real(training, *args, **kwargs)

    command = "train sft --task tiny_calculation(train=10,test=2) --steps 4 --rows 2 --lr 1e-3 --eval-points 1"
    more = "--eval-problems 1 --eval-samples 1 --eval-length 3 --save-every 2 --quiet --out"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(SystemExit) as stop:
            main([*command.split(), *more.split(), str(place)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert f"autodidact: {place}" in said and "File too large" in said
    assert [path.name for path in (place / "checkpoints").iterdir()] == ["step-000002"]
    main(["train", "--resume", str(place), "--quiet"])
    assert weights(place) == weights(whole) and lines(place) == lines(whole)


def test_a_place_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["train", "sft", "--steps", "1", "--quiet", "--out", str(tmp_path / "file" / "run")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "Not a directory" in said
