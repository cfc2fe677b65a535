"""Hours of training while faults come at random: nothing is lost, and memory stays flat.

    make soak HOURS=2            (python tests/soak.py --hours 2 --seed 0 --out FOLDER)

Two runs of the shipped model, one after the other, each beside an undisturbed twin: OPSD with an
averaged teacher, and GRPO whose completions a server draws. The disturbed one is killed (SIGKILL),
told to stop (SIGTERM), finds its disk full (no file may be larger than a limit) or its server dead or
silent (SIGSTOP), after a random time, and is resumed. At the end metrics, samples and the last checkpoint of the twins
must be equal to the last bit, every stop that is no kill must have said why in one line, and memory
must not have grown. Prints a table; exit code 1 if anything of this fails. Every event and memory
reading is in FOLDER/events.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "reliability")]

USUAL = (
    *("--rows", "16", "--length", "24", "--lr", "3e-4", "--guard", "warn"),
    *("--eval-points", "8", "--eval-problems", "16", "--eval-samples", "2", "--quiet"),
)
FAULTS = ("kill", "stop", "full disk", "dead server", "silent server")
PAUSE = 50.0
"""Mean seconds between two faults."""
LIMIT = 150_000
"""Bytes of the largest file on a full disk: logs go on for a while, no checkpoint fits."""
GROWTH = 0.05
"""Share by which the memory of a process may grow from the second tenth of its time to the last."""
ENDS = {
    "kill": (-signal.SIGKILL,), "stop": (143, 0), "full disk": (2, 0), "dead server": (2, 0),
    "silent server": (2, 0),
}  # fmt: skip
"""Exit codes that a fault may lead to; 0 where the run came to its end before."""


@dataclass
class Soak:
    """One pair of twins.

    Attributes:
        method: its command line.
        save_every: steps between checkpoints; together they should take less time than passes
            between two faults, or nothing would ever be got done.
        faults: those that may come.
        note: writes to the log.
    """

    name: str
    method: list[str]
    save_every: int
    faults: tuple[str, ...]
    folder: Path
    random: random.Random
    note: Callable[..., None]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    port: int = 0
    server: subprocess.Popen | None = None

    def line(self, place: str, steps: int) -> list[str]:
        """A command line that trains, or goes on."""
        train, out = [sys.executable, "-m", "autodidact", "train"], self.folder / place
        if (out / "run.json").exists():
            return [*train, "--resume", str(out), "--quiet"]
        engine = []
        if self.server is not None:
            engine = ["--engine", f"server(url='http://127.0.0.1:{self.port}', update='vllm', "]
            engine[1] += "retries=2, pause=0.2, timeout=20)"
        often = ["--save-every", str(self.save_every), "--steps", str(steps)]
        return [*train, *self.method, *USUAL, *engine, *often, "--out", str(out)]

    def start(self, place: str, steps: int, full: bool = False) -> subprocess.Popen:
        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self.line(place, steps), env=environment, stdout=subprocess.DEVNULL, text=True,
            stderr=subprocess.PIPE, preexec_fn=limit if full else None,
        )  # fmt: skip

    def serve(self) -> None:
        """Have the server there, at the same address as before."""
        if not any(fault.endswith("server") for fault in self.faults):
            return
        self.port = self.port or free_port()
        self.server = subprocess.Popen([sys.executable, __file__, "--serve", str(self.port)])
        for _ in range(600):
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError("the server did not start")

    def end_of_server(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def whole(self, place: str, steps: int) -> float:
        """Train without faults. Returns the seconds that it took."""
        began = time.monotonic()
        process = self.start(place, steps)
        self.watch(process, place, None)
        self.ended(process, place, (0,))
        return time.monotonic() - began

    def watch(self, process: subprocess.Popen, place: str, until: float | None) -> bool:
        """Note the memory of a process once a second. Returns whether it ended by itself."""
        while process.poll() is None:
            if until is not None and time.monotonic() > until:
                return False
            self.note(kind="memory", run=self.name, place=place, pid=process.pid,
                      bytes=memory(process.pid))  # fmt: skip
            time.sleep(1.0)
        return True

    def ended(self, process: subprocess.Popen, place: str, codes: tuple[int, ...]) -> int:
        _, said = process.communicate()
        code = process.returncode
        self.note(kind="end", run=self.name, place=place, code=code, said=said[-2000:])
        if code not in codes or "Traceback" in said:
            self.wrong.append(f"{place} ended with {code}, not {codes}: {said[-300:]!r}")
        return code

    def disturbed(self, place: str, steps: int, deadline: float) -> None:
        """Train while faults come, until the end; after a deadline no more of them come."""
        code = -1
        while code != 0:
            fault = self.random.choice(self.faults) if time.monotonic() < deadline else None
            process = self.start(place, steps, fault == "full disk")
            wait = None if fault in (None, "full disk") else self.random.expovariate(1 / PAUSE)
            done = self.watch(process, place, None if wait is None else time.monotonic() + wait)
            if fault is not None and (not done or fault == "full disk"):
                self.counts[fault] += 1
                self.note(kind="fault", run=self.name, fault=fault)
            if not done and fault == "kill":
                process.kill()
            elif not done and fault == "stop":
                process.terminate()
            elif not done and fault in ("dead server", "silent server"):
                assert self.server is not None
                self.server.send_signal(
                    signal.SIGKILL if fault == "dead server" else signal.SIGSTOP
                )
                self.watch(process, place, None)
                self.end_of_server()
                self.serve()
            code = self.ended(
                process, place, (0,) if done and fault != "full disk" else ENDS[fault]
            )
            if self.wrong and len(self.wrong) > 20:
                return

    def compare(self, one: str, other: str) -> None:
        """Note what differs between two runs."""
        from twins import measured, saved

        first, second = self.folder / one, self.folder / other
        for what, look in (("metrics", measured), ("the checkpoint", saved)):
            if look(first) != look(second):
                self.wrong.append(f"{what} of {one} and {other} differ")
        if (first / "samples.jsonl").read_bytes() != (second / "samples.jsonl").read_bytes():
            self.wrong.append(f"the samples of {one} and {other} differ")


def memory(pid: int) -> int:
    """Resident bytes of a process, 0 where it has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]


def grown(readings: list[int]) -> float:
    """By which share memory grew from the second tenth of its readings to the last."""
    tenth = max(1, len(readings) // 10)
    early, late = readings[tenth : 2 * tenth], readings[-tenth:]
    return statistics.median(late) / statistics.median(early) - 1


def soak(
    name: str, method: list[str], save_every: int, faults: tuple[str, ...], hours: float, options
) -> Soak:
    """A run and its twin, one after the other, with faults in `hours`."""
    events = options.out / "events.jsonl"
    began = time.monotonic()

    def note(**values: Any) -> None:
        with events.open("a") as file:
            file.write(json.dumps({"at": round(time.monotonic() - began, 1), **values}) + "\n")

    folder = options.out / name
    folder.mkdir(parents=True)
    chance = random.Random(f"{options.seed}/{name}")
    found = Soak(name, method, save_every, faults, folder, chance, note)
    found.serve()
    spent = found.whole("probe", 20), found.whole("longer probe", 80)
    each = max(0.01, (spent[1] - spent[0]) / 60)
    # About a third of the time for the twin; the disturbed run does part of its work twice.
    steps = max(40, int(hours * 3600 / 3 / each) // 20 * 20)
    note(kind="plan", run=name, steps=steps, seconds_a_step=each)
    print(f"{name}: {steps} steps of {each:.2f} s", flush=True)
    found.whole("undisturbed", steps)
    found.end_of_server()
    found.serve()
    found.disturbed("disturbed", steps, began + hours * 3600)
    found.end_of_server()
    found.compare("undisturbed", "disturbed")
    return found


def table(found: list[Soak], events: Path, hours: float, seed: int) -> int:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    failed = 0
    for each in found:
        readings = [
            line["bytes"] for line in lines
            if line["kind"] == "memory" and line["run"] == each.name and line["bytes"]
            and line["place"] == "undisturbed"
        ]  # fmt: skip
        growth = grown(readings)
        if growth > GROWTH:
            each.wrong.append(f"memory grew by {growth:.1%}")
        counts = ", ".join(f"{count} {fault}" for fault, count in sorted(each.counts.items()))
        highest = max(readings) / 2**20
        print(f"{each.name}: {counts or 'no fault'}; memory {growth:+.1%} over {len(readings)} s "
              f"(highest {highest:.0f} MiB); {'; '.join(each.wrong) or 'equal to its twin'}")  # fmt: skip
        failed += bool(each.wrong)
    print(f"hours {hours:g}, seed {seed}, {events}")
    return failed


def serve(port: int) -> None:
    import torch

    torch.set_num_threads(1)
    from test_f14_server import Mortal

    Mortal(port).thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    if options.out.exists():
        parser.error(f"{options.out} exists; a run is never overwritten")
    options.out.mkdir(parents=True)
    half = options.hours / 2
    found = [
        soak("opsd", ["opsd", "--teacher", "ema:0.9"], 20, FAULTS[:3], half, options),
        soak("grpo over a server", ["grpo", "--n", "4"], 5, FAULTS, half, options),
    ]
    sys.exit(1 if table(found, options.out / "events.jsonl", options.hours, options.seed) else 0)


if __name__ == "__main__":
    main()
