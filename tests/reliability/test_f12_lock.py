"""F12: two processes on one run directory: the second refuses, and a dead one leaves no lock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from twins import At, small

from autodidact import api, lock, session
from autodidact.lock import locked
from autodidact.run import Directory
from autodidact.session import execute

HOLD = """
import sys, time
from pathlib import Path
from autodidact.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""
SPEC = small(eval_points=0, save_every=1)


@pytest.fixture
def other(tmp_path):
    """Another process that has locked `tmp_path / "run"`."""
    line = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_the_second_process_refuses_and_names_the_first(tmp_path, other):
    said = f"in use by process {other.pid} on {socket.gethostname()}"
    with pytest.raises(ValueError, match=said), locked(tmp_path / "run"):
        pass
    assert other.poll() is None


def test_a_killed_process_leaves_no_lock(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / lock.NAME).exists(), "the file is there, and says nothing"
    Directory(tmp_path / "run")
    with locked(tmp_path / "run"):
        own = (tmp_path / "run" / lock.NAME).read_text()
        assert own == f"process {os.getpid()} on {socket.gethostname()}"
    assert list((tmp_path / "run").iterdir()) == []


def test_it_is_not_taken_twice_in_one_process_either(tmp_path):
    with locked(tmp_path):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} "), locked(tmp_path):
            pass
        with pytest.raises(ValueError, match="in use by"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_lock_on_a_name_that_is_gone_does_not_count(tmp_path, monkeypatch):
    """The owner ends between the opening of the file and the lock on it."""
    real, before = lock.fcntl.flock, [tmp_path / lock.NAME]

    def flock(handle, how):
        if before:
            before.pop().unlink()
        real(handle, how)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with locked(tmp_path):
        assert (tmp_path / lock.NAME).exists()
        with pytest.raises(ValueError, match="in use by"), locked(tmp_path):
            pass


@pytest.mark.slow
def test_a_run_under_way_is_not_resumed_nor_begun_again(tmp_path):
    out, refusals = tmp_path / "run", []

    def intrude():
        for again in (lambda: api.resume(out), lambda: execute(SPEC, out)):
            with pytest.raises(ValueError, match=r"in use by|is not empty") as refused:
                again()
            refusals.append(str(refused.value))

    execute(SPEC, out, watcher=At(1, intrude))
    assert [f"process {os.getpid()}" in said for said in refusals] == [True, False]
    assert json.loads((out / "run.json").read_text())["finished"]
    assert not (out / lock.NAME).exists()


@pytest.mark.slow
def test_of_two_that_begin_at_once_one_refuses(tmp_path, monkeypatch):
    """Both have seen an empty folder; the second gets the lock when the first is done."""
    out, begun = tmp_path / "run", []

    class Late(Directory):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            if not begun:
                begun.append(self.path)
                execute(SPEC, self.path)

    monkeypatch.setattr(session, "Directory", Late)
    with pytest.raises(ValueError, match="is not empty; a run is never overwritten"):
        execute(SPEC, out)
    assert begun == [out]
