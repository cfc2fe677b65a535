"""Time and memory of one call, on a CPU (Linux) or a GPU."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Found = TypeVar("Found")
TRIES = 3
"""Products of which the fastest counts."""


def free(device: str) -> float:
    """Bytes that a new tensor may take."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return 1024 * _field("/proc/meminfo", "MemAvailable")


def _field(path: str, name: str) -> float:
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def started(device: str) -> float:
    """Bytes held now; from here on the peak is counted."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    # What was freed goes back to the system, or the peak would not show its use.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return 1024 * _field("/proc/self/status", "VmRSS")


def peak(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return 1024 * _field("/proc/self/status", "VmHWM")


def timed(device: str, call: Callable[[], Found]) -> tuple[Found, float, float]:
    """What the call returns, its seconds on the clock and those of the processor."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    wait()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def product(side: int, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Flop a second of a square product: by the clock ("wall") and by the processor ("cpu")."""
    one, two = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = one @ two
    times = [timed(device, lambda: torch.mm(one, two, out=out))[1:] for _ in range(TRIES)]
    wall, cpu = (min(each) for each in zip(*times, strict=True))
    return {"wall": 2 * side**3 / wall, "cpu": 2 * side**3 / cpu}
