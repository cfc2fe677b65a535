"""The actors engine: requests are split over processes of a Ray cluster, which draw with an engine
of their own on a copy of the policy's weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import ref

import torch

from autodidact import calls
from autodidact.adapter import effective_weights
from autodidact.engine import Drawn, Engine, Request, fits
from autodidact.engines.connection import check_address, connect, only_own_devices
from autodidact.engines.outside import signature
from autodidact.head import whole
from autodidact.law import Law
from autodidact.model import LM, load
from autodidact.names import at_least_one, choose
from autodidact.places import SHIPPED, locate
from autodidact.store import Completion

INNER = ("cached", "denoise", "local", "vllm")
RETRIES = 3
"""Actors that a single draw may lose before it gives up."""


@dataclass(eq=False)
class Actors:
    """Draws with several processes, on any machine of a Ray cluster.

    Each loads the policy by its name and gets its weights before the first draw and after each
    change of them, LoRA merged; nobody has to tell it. Requests that read the same are not
    separated. What is drawn does not depend on who draws it, beyond the rounding of products of
    other rows; beginnings that prompts in different processes share are read, and counted, more
    than once.

    A process that dies, or whose machine does, is replaced: the new one gets the weights, and the
    requests that were lost are drawn again, to the same completions.

    Attributes:
        workers: processes.
        inner: the engine of each, with its options: cached, denoise, local or vllm.
        address: of the cluster, where this process is not part of one: local, auto or host:port.
        cpus, gpus: processors of each process; without a GPU it draws on processors.
        timeout: seconds without any answer after which a process counts as lost.
    """

    workers: int = 2
    inner: str = "local"
    address: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    timeout: float = 3600.0
    _actors: list[Any] = field(default_factory=list, init=False, repr=False)
    _known: tuple[str, str] | None = field(default=None, init=False, repr=False)
    _weights: Any = field(default=None, init=False, repr=False)
    _sent: tuple[Any, int] | None = field(default=None, init=False, repr=False)
    _version: int = field(default=0, init=False, repr=False)

    def __post_init__(self):
        at_least_one(workers=self.workers)
        check_address(self.address)
        self._call = calls.parse(self.inner)
        choose("inner engine", self._call.name, INNER)
        self._engine: Engine = calls.make(calls.engine, self._call)

    @property
    def name(self) -> str:
        """That of the inner engine, whose completions these are."""
        return self._engine.name

    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request, drawn from exactly that law.

        Raises:
            ValueError: no cluster, or one without room; another model than at the first draw, or
                one that cannot be loaded by its name; what the inner engine refuses; or more than
                `RETRIES` lost processes.
        """
        fits(lm, requests)
        self.follow(lm)
        parts = shared_out(requests, self.workers)
        found = self._gather(
            [(self._version, [self._weights], [requests[i] for i in p], law, seed) for p in parts]
        )
        completions: dict[int, Completion] = {}
        for part, drawn in zip(parts, found, strict=True):
            completions |= dict(zip(part, drawn.completions, strict=True))
        costs = (sum(each) for each in zip(*(drawn[1:] for drawn in found), strict=True))
        return Drawn([completions[i] for i in range(len(requests))], *costs)

    def follow(self, lm: LM, together: bool = False) -> None:
        """Have the processes, and the weights where they can fetch them: each process of a run has
        its own to give.

        Raises:
            ValueError: no room in the cluster, or another model than at the first time.
        """
        model = (lm.name, "bf16" if lm.autocast else "fp32")
        if self._known is None:
            connect(self.address, self.cpus * self.workers, self.gpus * self.workers)
            self._known = model
            self._actors = [self._hire() for _ in range(self.workers)]
        elif self._known != model:
            raise ValueError(
                f"these actors were started for {self._known[0]} ({self._known[1]}), not for "
                f"{lm.name} ({model[1]}): make a second engine"
            )
        import ray

        # Beside the versions of its weights the model itself: a new one may lie where an old did.
        now = signature(lm)
        if self._sent is not None and self._sent[0]() is lm.model and self._sent[1] == now:
            return
        self._weights = ray.put(packed(lm))
        self._sent, self._version = (ref(lm.model), now), self._version + 1

    def _hire(self) -> Any:
        import ray

        assert self._known is not None
        name, precision = self._known
        # Beside the place that the training itself takes, wherever there is room.
        actor: Any = ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, scheduling_strategy="DEFAULT"
        )(Writer)
        return actor.remote(findable(name), precision, self.inner, max(1, int(self.cpus)))

    def _gather(self, asked: Sequence[tuple]) -> list[Drawn]:
        """What the processes draw, the first part by the first."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        waiting = {self._actors[i].draw.remote(*each): i for i, each in enumerate(asked)}
        found: dict[int, Drawn] = {}
        lost = 0
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=self.timeout)
            if not ready:
                for i in waiting.values():
                    ray.kill(self._actors[i])
            for each in ready:
                i = waiting.pop(each)
                try:
                    found[i] = ray.get(each)
                except RayTaskError as error:
                    if isinstance(error.cause, ValueError):
                        raise ValueError(str(error.cause)) from error
                    raise
                except RayActorError as error:
                    lost += 1
                    if lost > RETRIES:
                        raise ValueError(
                            f"{lost} processes that draw were lost in one draw, the last one with: "
                            f"{str(error).strip().splitlines()[0]}"
                        ) from error
                    self._actors[i] = self._hire()
                    waiting[self._actors[i].draw.remote(*asked[i])] = i
        return [found[i] for i in range(len(asked))]


class Writer:
    """A process of the cluster that draws."""

    def __init__(self, model: str, precision: str, engine: str, threads: int):
        only_own_devices()
        torch.set_num_threads(threads)
        self.model, self.precision = model, precision
        self.engine: Engine = calls.make(calls.engine, calls.parse(engine))
        self.lm: LM | None = None
        self.version = 0

    def draw(
        self, version: int, weights: list[Any], requests: Sequence[Request], law: Law, seed: int
    ) -> Drawn:
        """As an engine draws, with the weights of that version.

        Args:
            weights: a list of one reference to them; they are fetched where they are not here.
        """
        import ray

        # Not at the start: what is wrong with the model is said as an error of the draw.
        if self.lm is None:
            self.lm = load(self.model, precision=self.precision)  # type: ignore[arg-type]
            self.lm.model.requires_grad_(False)
        if self.version != version:
            unpack(self.lm, ray.get(weights[0]))
            self.version = version
        return self.engine.draw(self.lm, requests, law, seed)

    def pid(self) -> int:
        return os.getpid()


def findable(name: str) -> str:
    """The name of a model as other machines find it: a folder by its whole path."""
    place = locate(name)
    return str(Path(place).resolve()) if name not in SHIPPED and Path(place).is_dir() else name


def packed(lm: LM) -> bytes:
    """The weights a model computes with, LoRA merged, as a safetensors file."""
    from safetensors.torch import save

    weights = effective_weights(lm.model)
    return save({name: whole(value).cpu().contiguous() for name, value in weights.items()})


@torch.no_grad()
def unpack(lm: LM, content: bytes) -> None:
    """Give a model the weights that `packed` packed; `ValueError` where they are another's."""
    from safetensors.torch import load

    weights, own = load(content), dict(lm.model.named_parameters())
    wrong = _differing(own, weights)
    if wrong:
        raise ValueError(f"the weights sent are not those of {lm.name}: {', '.join(wrong[:4])}")
    for name, value in weights.items():
        own[name].copy_(value)


def _differing(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    """Names that are not in both, or not with one shape."""
    shapes = [{name: value.shape for name, value in each.items()} for each in (one, other)]
    return sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})


def shared_out(requests: Sequence[Request], parts: int) -> list[list[int]]:
    """The numbers of the requests in at most so many parts of about as many tokens.

    Requests that read the same stay together, so that it is read once.
    """
    together: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        together.setdefault(request.read, []).append(number)
    found: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for numbers in together.values():
        least = loads.index(min(loads))
        found[least] += numbers
        loads[least] += sum(requests[i].length for i in numbers)
    return [part for part in found if part]
