"""The jobs of a comparison, one arm with one seed each, and processes that do them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from autodidact.session import execute
from autodidact.spec import Spec

SAVE_EVERY = 20
"""Steps between the checkpoints of an arm that asks for none: it loses at most so many when it is
killed. They are deleted at its end."""


@dataclass(frozen=True)
class Job:
    """An arm with a seed.

    Attributes:
        out: its run directory.
        store: a file of rollouts that it shares with others; `None` for none.
    """

    arm: str
    spec: Spec
    out: Path
    store: Path | None = None


Work = Callable[[Sequence[Job]], Iterator[Job]]
"""Does jobs, and gives each as it ends."""


def run(job: Job) -> Job:
    """Do a job, or the rest of it: it goes on from its newest checkpoint, and does nothing twice.

    Raises:
        ValueError: as `execute`.
    """
    begun = (job.out / "run.json").is_file()
    execute(job.spec, job.out, resume=begun, store=job.store)
    # The weights of an arm are kept only where a run of its own was asked for.
    shutil.rmtree(job.out / "checkpoints", ignore_errors=True)
    return job


@contextmanager
def processes(count: int) -> Iterator[Work]:
    """So many processes of this machine, of one thread each. They end with the block.

    The worker raises `ValueError` where a process was killed.
    """
    others = set(active_children())
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin) as pool:

        def work(jobs: Sequence[Job]) -> Iterator[Job]:
            for each in as_completed([pool.submit(_run, job) for job in jobs]):
                yield each.result()

        try:
            yield work
        except BaseException as error:
            # What is under way stops with a checkpoint, as after any SIGTERM; nothing else begins.
            for child in set(active_children()) - others:
                child.terminate()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise ValueError(
                    "a process of the comparison was killed, perhaps for want of memory; what had "
                    "been done is kept and can be gone on with"
                ) from error
            raise


def _run(job: Job) -> Job:
    try:
        return run(job)
    except KeyboardInterrupt:
        os._exit(1)  # or else this worker would go on with the next job of the queue


def _begin() -> None:
    import torch

    # An interrupt from the keyboard reaches all processes; the parent tells its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would write on, beside the one who resumes."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
