"""S2: verifiers run in a process of their own: limited, without secrets, killed when they hang."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autodidact.tasks import mathworker
from autodidact.tasks.worker import Worker, WorkerError

SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OWN_VARIABLE")
CODE = """
import os, resource, sys, time
def answer(request, wall):
    if request == "environment":
        return dict(os.environ)
    if request == "input":
        return sys.stdin.read()
    if request == "print":
        print("x" * 10_000_000); print("x" * 10_000_000, file=sys.stderr)
        return "printed"
    if request == "child":
        child = os.fork()
        if not child:
            time.sleep(600)
        return child
    time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch) -> Iterator[Worker]:
    for name in SECRETS:
        monkeypatch.setenv(name, "canary-of-a-secret")
    (tmp_path / "answering.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    found = Worker("answering", bare=True)
    yield found
    found.stop()


def limits(pid: int) -> dict[str, str]:
    """The soft limits of a process, by name."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[0] for line in lines}


def ended(pid: int) -> bool:
    """Whether a process is gone within a second, or waits for nothing but to be counted."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_the_verifier_of_mathematics_is_bounded_and_knows_no_secrets(monkeypatch):
    mathworker.WORKER.stop()
    for name in SECRETS:
        monkeypatch.setenv(name, "canary-of-a-secret")
    mathworker.equal.cache_clear()
    assert mathworker.equal("1/2", "0.5")
    process = mathworker.WORKER.process
    place = Path(f"/proc/{process.pid}")
    assert b"canary-of-a-secret" not in (place / "environ").read_bytes()
    found = limits(process.pid)
    assert int(found["Max address space"]) == mathworker.MEMORY
    assert int(found["Max open files"]) == mathworker.FILES
    assert int(found["Max cpu time"]) < 600
    assert found["Max file size"] == found["Max core file size"] == found["Max processes"] == "0"
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid != os.getsid(0)
    home = (place / "cwd").resolve()
    assert home != Path.cwd() and not list(home.iterdir())
    mathworker.WORKER.stop()
    assert not home.exists()


def test_nothing_is_read_and_what_is_printed_is_no_answer(worker):
    assert "canary-of-a-secret" not in str(worker.ask("environment", 30))
    assert worker.ask("input", 30) == ""
    assert worker.ask("print", 30) == "printed"
    assert len(worker.said) <= 4096


def test_a_hang_is_ended_from_outside_with_all_that_it_started(worker):
    child = worker.ask("child", 30)
    pid = worker.process.pid
    with pytest.raises(WorkerError, match=r"took longer than 0\.2 s"):
        worker.ask("hang", 0.2)
    assert ended(pid) and ended(child)
    assert worker.ask("input", 30) == "", "another process answers the next request"


def test_a_verifier_that_was_killed_is_replaced(worker):
    worker.ask("input", 30)
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    assert worker.ask("input", 30) == ""
