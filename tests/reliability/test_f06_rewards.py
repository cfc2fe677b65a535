"""F6: a user's reward that raises, hangs, lies, crashes or eats memory costs its rows, not the run."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import pytest

from autodidact.problem import Problem
from autodidact.tasks import reward_calls, rewards
from autodidact.tasks.limits import Limits
from autodidact.tasks.rewards import user_reward
from autodidact.tasks.worker import Worker, WorkerError

SOURCE = '''
import ctypes, os, signal, subprocess, sys, time

def on(kind):
    """A reward that gives 1, and does something else at the text "bad"."""
    def reward(completions, **columns):
        return [kind() if text == "bad" else 1.0 for text in completions]
    return reward

def fork():
    os.fork()
    return 1.0

def linger():
    if os.fork() == 0:
        time.sleep(600)
    return 1.0

def allocate():
    return float(len(bytearray(20 << 30)))

def shout():
    for _ in range(100):
        print("x" * 1_000_000)
    sys.stderr.write("y" * 1_000_000)
    return 1.0

def deep():
    return deep()

def dies_and_says():
    print("the last words", flush=True)
    os._exit(7)

class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def odd():
    raise Odd

raises = on(lambda: {}["no such key"])
raises_odd = on(odd)
recursion = on(deep)
exits = on(lambda: os._exit(3))
exits_politely = on(lambda: sys.exit(4))
speaks_and_dies = on(dies_and_says)
segfaults = on(lambda: ctypes.string_at(0))
stopped = on(lambda: os.kill(os.getpid(), signal.SIGSTOP))
hangs = on(lambda: time.sleep(600))
spins = on(lambda: 9 ** 9 ** 9 % 7)
allocates = on(allocate)
shouts = on(shout)
forks = on(fork)
lingers = on(linger)
reads = on(lambda: float(len(sys.stdin.read())))
nan = on(lambda: float("nan"))
infinite = on(lambda: float("-inf"))
none = on(lambda: None)
huge = on(lambda: 10 ** 400)
large = on(lambda: 1e300)
text = on(lambda: "1.0")
own = on(os.getpid)
secret = on(lambda: float(os.environ.get("JUDGE_KEY", "-1")))

def short(completions, **columns):
    return [1.0]

def long(completions, **columns):
    return [1.0] * 10

async def waits(completions, **columns):
    import asyncio
    if "bad" in completions:
        await asyncio.sleep(600)
    return [1.0] * len(completions)

def together(completions, **columns):
    return [float(len(completions))] * (3 if len(completions) == 3 else 1 // 0)
'''
TEXTS = ["good", "bad", "good", "good"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return "mine.py:"


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left():
    yield
    for worker in rewards_workers():
        worker.stop()


def rewards_workers() -> list[Worker]:
    from autodidact.tasks import terms

    return list(terms._WORKERS.values())


def alive(group: int) -> int:
    """How many processes of a group are left that are not just waiting to be buried."""
    count = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, found = place.read_text().rpartition(")")[2].split()[:3]
            count += int(found) == group and state != "Z"
    return count


def until(group: int, wanted: int) -> None:
    """Wait, for seconds if need be, until so many processes of a group are left."""
    ends = time.monotonic() + 10
    while alive(group) != wanted and time.monotonic() < ends:
        time.sleep(0.01)
    assert alive(group) == wanted


def problems(texts: list[str] = TEXTS) -> list[Problem]:
    return [Problem(f"{i}?", answer="1") for i in range(len(texts))]


def scored(spec: str, limits: str = "", texts: list[str] = TEXTS):
    reward = user_reward(spec, limits=limits)
    return reward, reward(problems(texts), texts)


def test_one_that_raises_or_ends_its_process_costs_its_rows(mine):
    """Raises, exits, crashes by a signal, recurses without end, allocates 20 GB."""
    for name, kind in (
        ("raises", "raised KeyError"),
        ("raises_odd", "raised Odd"),
        ("recursion", "raised RecursionError"),
        ("exits", "ended its process (exit code 3)"),
        ("exits_politely", "ended its process (exit code 4)"),
        ("segfaults", "ended its process (Segmentation fault)"),
        ("allocates", "raised MemoryError"),
    ):
        with pytest.warns(UserWarning, match=re.escape(f"mine.py:{name} {kind}")):
            reward, found = scored(mine + name)
        assert found == [1.0, None, 1.0, 1.0], name
        assert reward.unscored == {f"mine.py:{name} {kind}": 1}
        assert reward(problems(["good"]), ["good"]) == [1.0]  # the process is there again


def test_one_that_hangs_is_stopped_from_outside(mine):
    """In one long operation that holds the interpreter, and in a coroutine."""
    for name in ("spins", "waits"):
        with pytest.warns(UserWarning, match=f"mine.py:{name} took longer than 0.3 s"):
            reward, found = scored(mine + name, "seconds=0.3")
        assert found == [1.0, None, 1.0, 1.0], name
        assert reward.unscored == {f"mine.py:{name} took longer than 0.3 s": 1}


@pytest.mark.slow
def test_one_that_cannot_even_watch_itself_is_stopped(mine):
    with pytest.warns(UserWarning, match="mine.py:stopped took longer than 0.3 s"):
        assert scored(mine + "stopped", "seconds=0.3")[1] == [1.0, None, 1.0, 1.0]


def test_a_hang_says_where_it_was(mine):
    with pytest.raises(ValueError, match=r"took longer than 0.3 s.*mine\.py.*line \d+ in"):
        scored(mine + "hangs", "seconds=0.3,unscorable=0")


def test_numbers_that_are_none(mine):
    """NaN, infinity, None and numbers that no float32 carries are no score; text is a mistake."""
    for name, kind in (
        ("nan", "NaN"),
        ("infinite", "infinity"),
        ("none", "None"),
        ("huge", "infinity"),
        ("large", "a number beyond 1e+15"),
    ):
        reward, found = scored(mine + name)
        assert found == [1.0, None, 1.0, 1.0], name
        assert reward.unscored == {f"mine.py:{name} returned {kind}": 1}
    for name, said in (
        ("text", r"mine.py:text returned '1.0' \(str\) for completion 1"),
        ("short", "mine.py:short returned 1 rewards for 4"),
        ("long", "mine.py:long returned 10 rewards for 4"),
    ):
        with pytest.raises(ValueError, match=said):
            scored(mine + name)


def test_prints_forks_and_reads(mine, capfd):
    """100 MB of output are dropped, forks neither answer nor stay, standard input is empty."""
    for name, stay in (("shouts", 1), ("forks", 1), ("lingers", 3)):
        reward, found = scored(mine + name)
        assert found == [1.0] * 4, name
        assert reward(problems(), TEXTS) == [1.0] * 4, name
        until(reward.worker.process.pid, stay)
        assert reward.worker.killed == 0
    assert scored(mine + "reads")[1] == [1.0, 0.0, 1.0, 1.0]
    assert capfd.readouterr() == ("", "")
    group = reward.worker.process.pid
    reward.worker.stop()
    until(group, 0)  # the forks that linger went with their group


def test_a_process_of_its_own_without_secrets(mine, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "17")
    assert scored(mine + "own")[1][1] not in (os.getpid(), None)
    assert scored(mine + "secret")[1] == [1.0, -1.0, 1.0, 1.0]
    assert scored(mine + "secret", "env=JUDGE_KEY")[1] == [1.0, 17.0, 1.0, 1.0]


def test_too_many_failures_stop_with_the_first_traceback(mine):
    with pytest.raises(ValueError, match=r"a share of 0\.5") as caught:
        scored(mine + "raises", texts=["good", "bad", "bad", "bad"])
    said = str(caught.value)
    assert said.startswith("reward function mine.py:raises raised KeyError: 'no such key' (mine.py")
    assert "in <lambda> < mine.py:" in said
    assert "3 of the first 4 of 4 completions" in said
    assert "\n" not in said
    with pytest.raises(ValueError, match="the last words"):
        scored(mine + "speaks_and_dies", "unscorable=0")
    with pytest.warns(UserWarning, match="4 of 4"):
        assert scored(mine + "raises", "unscorable=1", ["bad"] * 4)[1] == [None] * 4


def test_the_other_functions_keep_their_scores(mine):
    """What no function scored is None; what one scored is its sum."""
    with pytest.warns(UserWarning, match="ended its process"):
        _, found = scored(f"{mine}exits=2,{mine}none=3,{mine}own=0")
    assert found == [5.0, 0.0, 5.0, 5.0]
    with pytest.warns(UserWarning, match="raised"):
        assert scored(f"{mine}raises=2,{mine}none=3")[1] == [5.0, None, 5.0, 5.0]


def test_asking_one_by_one_ends(mine, monkeypatch):
    """However many hang, it takes a few walls and not one for each."""
    monkeypatch.setattr(rewards, "PATIENCE", 2)
    texts = ["bad"] * 6
    with pytest.warns(UserWarning, match="6 of 6"):
        reward, found = scored(mine + "hangs", "seconds=0.2,unscorable=1", texts)
    assert found == [None] * 6
    assert reward.unscored["mine.py:hangs was not asked: time is up"] >= 3


def test_columns_that_json_cannot_hold(mine):
    rows = [Problem("a", meta={"when": Path("x")})]
    with pytest.raises(ValueError, match="column 'when' cannot be passed to reward function mine"):
        user_reward(mine + "none")(rows, ["good"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("second=3", "did you mean 'seconds'"),
        ("seconds=0", "a number above 0"),
        ("seconds=nan", "a number above 0"),
        ("seconds=x", "seconds=NUMBER"),
        ("memory=-1", "GiB, or 0"),
        ("unscorable=2", "a share from 0 to 1"),
        ("env=sk-123", "names of variables, not their values"),
    ],
)
def test_limits_that_are_not_allowed(text, said):
    with pytest.raises(ValueError, match=said):
        Limits.of(text)


def test_limits_as_text():
    given = Limits.of("seconds=5, memory=0,env=A,env=B_2")
    assert given == Limits(5.0, 0.0, 0.5, ("A", "B_2"))
    assert given.bytes is None
    assert Limits().bytes == 8 << 30


def test_garbage_and_giant_replies_are_no_answers(monkeypatch):
    """Whatever arrives on the pipe, the next request is answered by a new process."""
    worker = Worker(reward_calls.__name__)
    assert worker.ask({"calls": []}, 5.0)["results"] == []
    worker.reply = b"{rubbish\n"
    with pytest.raises(WorkerError, match="gave no answer"):
        worker.ask({"calls": []}, 5.0)
    monkeypatch.setattr("autodidact.tasks.worker.REPLY", 10)
    with pytest.raises(WorkerError, match="at most 10 bytes"):
        worker.ask({"calls": []}, 5.0)
    assert worker.killed == 2
    worker.stop()
