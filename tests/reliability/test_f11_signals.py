"""F11: SIGTERM and SIGINT at any moment: a checkpoint within `GRACE`, exit code 143 or 130, and
a run that goes on as if nothing had been; a second signal ends the process at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from twins import At, assert_same, small

from autodidact import api, checkpoint, cli, interrupt
from autodidact.calls import Call
from autodidact.interrupt import Stopped, caught, later
from autodidact.session import execute

SIGNALS = [signal.SIGINT, signal.SIGTERM]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small run, undisturbed."""
    return execute(small(), tmp_path_factory.mktemp("whole") / "run")


def during(monkeypatch, where: str, number: int, signum: int) -> None:
    """Send a signal to this process in the middle of the n-th call of a function."""
    module, name = where.rsplit(".", 1)
    real, count = getattr(sys.modules[module], name), [0]

    def interrupted(*arguments, **options):
        count[0] += 1
        if count[0] == number:
            signal.raise_signal(signum)
        return real(*arguments, **options)

    monkeypatch.setattr(sys.modules[module], name, interrupted)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("where", "call", "signum", "step"),
    [
        slow("autodidact.evaluate._decode", 1, signal.SIGINT, 1),
        ("autodidact.train.learn", 3, signal.SIGTERM, 3),
        slow("autodidact.files.append", 3, signal.SIGTERM, 1),
        slow("autodidact.evaluate._decode", 3, signal.SIGTERM, 2),
        slow("autodidact.checkpoint.write_manifest", 1, signal.SIGTERM, 2),
        slow("autodidact.train.learn", 4, signal.SIGINT, 4),
        slow("autodidact.microscope.look", 1, signal.SIGTERM, 4),
    ],
)
def test_a_signal_ends_a_run_after_the_step(
    where, call, signum, step, whole, tmp_path, monkeypatch
):
    """Drawing, learning, writing, looking, saving: the run goes on to the same end."""
    spec = small(save_every=2 if where.startswith("autodidact.checkpoint") else 0)
    with monkeypatch.context() as patched:
        during(patched, where, call, signum)
        with pytest.raises(Stopped) as stop:
            execute(spec, tmp_path / "run")
    assert stop.value.code == CODES[signum]
    [newest] = checkpoint.complete(tmp_path / "run" / "checkpoints")
    assert newest.name == f"step-00000{step}"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is None
    assert signal.getsignal(signum) in interrupt.OURS[signum], "the handlers are as before"
    assert_same(whole, execute(spec, tmp_path / "run", resume=True))


@pytest.mark.slow
def test_what_was_drawn_ahead_is_not_lost(tmp_path):
    spec = replace(
        small(staleness=1), method=Call("grpo", {"n": 2, "length": 8, "correct": "token"})
    )
    undisturbed = execute(spec, tmp_path / "whole")
    stop = At(2, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        execute(spec, tmp_path / "run", watcher=stop)
    assert_same(undisturbed, execute(spec, tmp_path / "run", resume=True))


def test_before_the_first_step_it_ends_at_once(tmp_path, monkeypatch):
    during(monkeypatch, "autodidact.session.load_policy", 1, signal.SIGTERM)
    with pytest.raises(Stopped), caught(tmp_path / "run"):
        execute(small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_step_that_takes_too_long_is_left(tmp_path, monkeypatch, capfd):
    """The process ends; what it had written stands, and the run begins there again."""
    left, codes = threading.Event(), []

    def leave(code):
        codes.append(code)
        left.set()

    monkeypatch.setattr(interrupt, "GRACE", 0.05)
    monkeypatch.setattr(interrupt.os, "_exit", leave)

    def hang():
        signal.raise_signal(signal.SIGTERM)
        assert left.wait(60)
        raise InterruptedError("the process has ended here")

    spec = small(save_every=2)
    with pytest.raises(InterruptedError):
        execute(spec, tmp_path / "run", watcher=At(3, hang))
    assert codes == [143]
    said = capfd.readouterr().err
    assert "takes longer than 0.05 s and is left" in said
    assert f"autodidact train --resume {tmp_path / 'run'}" in said
    [newest] = checkpoint.complete(tmp_path / "run" / "checkpoints")
    assert newest.name == "step-000002"


TWICE = """
import sys, time
from pathlib import Path
from autodidact.interrupt import caught, later
with caught(Path("run")), later():
    print("ready", flush=True)
    time.sleep(600)
    print("slept")
"""


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_second_signal_ends_the_process_at_once(signum, tmp_path):
    line = [sys.executable, "-c", TWICE]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        assert process.stderr.readline() == "\n"
        said = process.stderr.readline()
        assert process.poll() is None, "the first one is noted"
        process.send_signal(signum)
        assert process.wait(60) == -signum, "a shell says 128 + that"
    assert said == (
        f"{signum.name}: stopping after this step, or in 25 s; once more to stop at once\n"
    )


def test_handlers_of_others_stay(tmp_path):
    known = {number: signal.getsignal(number) for number in SIGNALS}

    def own(number, frame): ...

    try:
        signal.signal(signal.SIGTERM, own)
        with caught(tmp_path):
            assert signal.getsignal(signal.SIGTERM) is own
            with later() as number:
                assert number() is None
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts a job in the background
        with caught(tmp_path):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            with pytest.raises(Stopped):
                signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


def test_other_threads_catch_nothing(tmp_path):
    found = []

    def work():
        with caught(tmp_path):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_the_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    """Also where the path needs quotes."""

    def stop(spec, out, **options):
        Path(out).mkdir()
        (Path(out) / "run.json").write_text("{}")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(api, "execute", stop)
    with pytest.raises(SystemExit) as end:
        cli.main(("train", "sft", "--out", str(tmp_path / "my run")))
    assert end.value.code == 143
    said = capsys.readouterr().err
    assert f"stopped; go on with: autodidact train --resume '{tmp_path / 'my run'}'" in said


# ------------------------------------------------------------------ real processes

OPTIONS = (
    "--task", "tiny_calculation(train=12, test=2)", "--length", "8", "--rows", "4", "--lr", "1e-3",
    "--eval-points", "0", "--eval-problems", "2", "--eval-samples", "1", "--eval-length", "4",
)  # fmt: skip


def started(*line: str, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "autodidact", *line], env=own, **pipes)


def wait_for(process: subprocess.Popen, file: Path, text: str) -> None:
    """Until a file has a text, while the process lives."""
    pause = threading.Event()
    while not (file.exists() and text in file.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()
        pause.wait(0.02)


@pytest.mark.slow
def test_a_command_that_gets_sigterm(tmp_path, capsys):
    out = tmp_path / "run"
    line = ("train", "grpo", "--n", "2", *OPTIONS, "--steps", "4000", "--out")
    with started(*line, str(out)) as process:
        wait_for(process, out / "metrics.jsonl", '"step": 2')
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert f"stopped; go on with: autodidact train --resume {out}\n" in said
    assert "Traceback" not in said
    call = json.loads((out / "run.json").read_text())
    [newest] = checkpoint.complete(out / "checkpoints")
    made = int(newest.name.removeprefix("step-"))
    # Nobody knows how far it came; it goes on for two steps more.
    for part in (call["spec"]["run"], call["run"]):
        part["steps"] = made + 2
    (out / "run.json").write_text(json.dumps(call))
    cli.main(("train", "--resume", str(out), "--allow-change", "--quiet"))
    whole = (*line[:-2], str(made + 2), "--out", str(tmp_path / "whole"), "--quiet")
    cli.main(whole)
    assert_same(tmp_path / "whole", out)


@pytest.mark.slow
def test_a_comparison_that_gets_sigterm(tmp_path):
    """It ends at once, its workers with it; what it has done can be gone on with."""
    out = tmp_path / "run"
    line = ("compare", "sft", "grpo", "--n", "2", "--seeds", "0", "--budget", "10000000")
    with started(*line, *OPTIONS, "--out", str(out)) as process:
        wait_for(process, out / "arms" / "grpo" / "seed-0" / "metrics.jsonl", '"step"')
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert f"stopped; go on with: autodidact compare --resume {out}\n" in said
    assert "Traceback" not in said
    pause = threading.Event()
    for pid in children:
        for _ in range(5000):  # it takes a moment
            if not Path(f"/proc/{pid}").exists():
                break
            pause.wait(0.02)
        assert not Path(f"/proc/{pid}").exists()
