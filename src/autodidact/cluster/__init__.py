"""Work on a Ray cluster: the arms of a comparison as tasks, and training as a group of workers.

Ray starts processes, hands out processors, notices who died and starts them anew. Numbers, files
and checkpoints are those of a run on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RETRIES = 3
"""How often an arm, or the workers of a training, are started anew after one was lost."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster.

    Attributes:
        address: local, auto or host:port, see `engines.connection`.
        cpus: of each arm of a comparison; also the threads it computes with.
        gpus: of each arm; a fraction lets several share one.
    """

    address: str
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self):
        from autodidact.engines.connection import check_address

        check_address(self.address)
        for name, least in (("cpus", "above 0"), ("gpus", "at least 0")):
            value = getattr(self, name)
            if value < 0 or (name == "cpus" and value == 0):
                raise ValueError(f"{name}={value} is not allowed: it must be {least}")


@contextmanager
def connected(address: str, cpus: float, gpus: float) -> Iterator[None]:
    """Be part of a cluster, see `connection.connect`; a connection made here ends with the block,
    and with it everything that was started over it."""
    from autodidact.engines.connection import connect

    fresh = connect(address, cpus, gpus)
    try:
        yield
    finally:
        if fresh:
            import ray

            ray.shutdown()


@dataclass(frozen=True)
class Shared:
    """Storage that the driver sees and every node has to see: its working directory and a file.

    Attributes:
        folder: the working directory of the driver.
        file: one that the driver wrote, and what is in it.
    """

    folder: str
    file: str
    content: bytes

    @classmethod
    def of(cls, file: Path) -> Shared:
        return cls(os.getcwd(), str(file.resolve()), file.read_bytes())

    def enter(self) -> None:
        """Work in the driver's directory.

        Raises:
            ValueError: this node sees another storage than the driver.
        """
        here = os.uname().nodename
        try:
            same = Path(self.file).read_bytes() == self.content
            os.chdir(self.folder)
        except OSError as error:
            raise ValueError(f"{error.filename} of the driver {NEEDED.format(here)}") from error
        if not same:
            raise ValueError(f"{self.file} of the driver {NEEDED.format(here)}")


NEEDED = (
    "is not what the node {} sees there: the run directory and the working directory must be on "
    "storage that all nodes of the cluster share, under the same path"
)
