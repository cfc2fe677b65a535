"""The connection to a Ray cluster, and what it has room for. Ray itself is imported here, late."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from math import ceil
from typing import Any

MISSING = "a Ray cluster needs the package ray: pip install 'autodidact[ray]'"
ADDRESS = re.compile(r"local|auto|[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


def check_address(address: str) -> None:
    """`ValueError` unless it is one that `connect` takes."""
    if not ADDRESS.fullmatch(address):
        raise ValueError(
            f"{address!r} is no address of a Ray cluster; allowed: local (one of this machine, "
            "started and ended with the run), auto (the one this machine is part of), host:port"
        )


def connect(address: str, cpus: float, gpus: float) -> bool:
    """Be part of a cluster: the one that this process is part of already, else that address.

    A cluster that is started here has as many logical CPUs as are asked for: they are room for
    processes, not cores. Nothing is reported to Ray's makers.

    Args:
        cpus, gpus: that the run needs at once.

    Returns:
        Whether the connection is new, so that the caller has to end it.

    Raises:
        ValueError: Ray is not installed, no such cluster, or less room in it.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError(MISSING) from error
    fresh = not ray.is_initialized()
    if fresh:
        _start(ray, address, cpus)
    try:
        room(address, cpus, gpus)
    except ValueError:
        if fresh:
            ray.shutdown()
        raise
    return fresh


def room(address: str, cpus: float, gpus: float) -> None:
    """`ValueError` unless the cluster has so many processors, whoever uses them now."""
    import ray

    there = ray.cluster_resources()
    for name, asked in (("CPU", cpus), ("GPU", gpus)):
        if asked > there.get(name, 0):
            raise ValueError(
                f"{asked:g} {name}s are asked for at once, and the cluster {address!r} has "
                f"{there.get(name, 0):g}: give it more, or take fewer workers"
            )


def _start(ray: Any, address: str, cpus: float) -> None:
    options: dict[str, Any] = {}
    if address == "local":
        options = {"num_cpus": max(os.cpu_count() or 1, ceil(cpus)), "include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"no Ray cluster at {address!r}: {reason}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in place


def only_own_devices() -> None:
    """Hide the GPUs of a machine from a process of Ray that was given none. Called before CUDA is
    used: Ray hides those of others, but leaves all to who asked for none."""
    import ray

    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
