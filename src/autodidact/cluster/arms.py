"""The arms of a comparison as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from autodidact.cluster import RETRIES, Cluster, Shared, connected
from autodidact.engines.connection import only_own_devices
from autodidact.guards import Halted
from autodidact.jobs import Job, Work, run


@contextmanager
def tasks(cluster: Cluster) -> Iterator[Work]:
    """Jobs as tasks, each where there is room for it.

    A task whose worker or node is lost is started anew elsewhere, `RETRIES` times, and goes on
    from the newest checkpoint of its arm; then the worker raises `ValueError`. What a job refuses
    itself is not tried again, and raised as it is.
    """
    with connected(cluster.address, cluster.cpus, cluster.gpus):
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

        task = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES)(_do)
        threads = max(1, int(cluster.cpus))

        def work(jobs: Sequence[Job]) -> Iterator[Job]:
            jobs = [replace(job, out=job.out.absolute()) for job in jobs]
            # The folder of a seed in the folder of an arm in `arms`.
            place = [job.out.parents[2] / "run.json" for job in jobs]
            waiting = [
                task.remote(job, Shared.of(file), threads)
                for job, file in zip(jobs, place, strict=True)
            ]
            try:
                while waiting:
                    [ready], waiting = ray.wait(waiting)
                    yield ray.get(ready)
            except RayTaskError as error:
                for kind in (Halted, ValueError):
                    if isinstance(error.cause, kind):
                        raise kind(str(error.cause)) from error
                raise
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
                raise ValueError(
                    f"an arm was lost {RETRIES + 1} times, the last time with: "
                    f"{str(error).strip().splitlines()[0]}; what had been done is kept and can be "
                    "gone on with"
                ) from error
            finally:
                for each in waiting:
                    ray.cancel(each, force=True)

        yield work


def _do(job: Job, shared: Shared, threads: int) -> Job:
    import torch

    shared.enter()
    only_own_devices()
    torch.set_num_threads(threads)
    return run(job)
