"""The server engine: any OpenAI-compatible server that speaks in token ids."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from autodidact import parallel
from autodidact.adapter import effective_weights
from autodidact.engine import Drawn, Request, fits
from autodidact.engines.http import Refused, ask, patiently, place
from autodidact.engines.outside import (
    Answer,
    accepted,
    check,
    sampling,
    served,
    signature,
    write,
)
from autodidact.law import Law
from autodidact.model import LM
from autodidact.names import choose
from autodidact.sharding import gathered

NEEDS = (
    "the server must take token ids as a prompt and return token ids and the log-probability of "
    "each, as `vllm serve` does with --logprobs-mode processed_logprobs; `transformers serve` "
    "does not"
)
STALE = (
    "the policy was updated, but the server still has the weights it was started with: use "
    "Server(update='vllm') with a vLLM server that runs with VLLM_SERVER_DEV_MODE=1, or another "
    "engine for training"
)
TOKEN = re.compile(r"token_id:(\d{1,18})")


@dataclass(eq=False)
class Server:
    """Draws through POST /v1/completions of a server with the policy's weights.

    Every answer is checked: lengths, token ids, finite log-probabilities, the end token and, if
    the server returns it, the prompt. The first answers of each draw are read again by the policy,
    so that another model behind the address or log-probabilities of another law are errors. Faults
    that may pass are tried again: no connection, no answer in time, statuses 429 and 5xx, broken
    JSON.

    The law of vLLM is meant, also where another server answers: temperature, then min-p, top-k,
    top-p, seeds for each request. Where the law truncates, `raw` and `support` are the policy's,
    see `outside.accepted`; else `raw` is `logp`.

    Attributes:
        url: http://host:port, with or without /v1.
        model: its name there; the first that the server lists by default.
        workers: requests under way at a time.
        retries: how often a request that failed is sent again.
        timeout: seconds for each request.
        pause: seconds before the first retry; doubled with each.
        key: NAME of the environment variable that holds the key, if the server wants one.
        update: how the server gets new weights. "vllm" writes them to a folder that the server
            can read and calls /collective_rpc and /reset_prefix_cache, which vLLM serves with
            VLLM_SERVER_DEV_MODE=1; also before the first draw, as it may have those of an earlier
            run. `None` makes a draw after an update an error.
        folder: where those weights are written; the machine's temporary folder by default.
        tolerance: how many nats the server's log-probabilities may be off in the mean.
    """

    url: str
    model: str | None = None
    workers: int = 16
    retries: int = 4
    timeout: float = 120.0
    pause: float = 0.5
    key: str | None = None
    update: Literal["vllm"] | None = None
    folder: str | None = None
    tolerance: float = 0.1
    name: ClassVar[str] = "server"
    _weights: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        place(self.url)
        self.url = self.url.rstrip("/").removesuffix("/v1")
        if self.update is not None:
            choose("update", self.update, ["vllm"])
        for name, least in (("workers", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.key is not None and self.key not in os.environ:
            raise ValueError("key must name an environment variable that is set; that one is not")

    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request, drawn from exactly that law.

        Raises:
            ValueError: a request that does not fit; a law that the server would change, see
                `outside.served`; a server that cannot be reached, refuses, lacks what is needed
                or does not compute with the policy's weights.
        """
        fits(lm, requests)
        served(law)
        self.follow(lm)
        if self.model is None:
            self.model = self._first_model()
        with ThreadPoolExecutor(self.workers) as pool:
            answers = list(pool.map(lambda request: self._ask(lm, request, law, seed), requests))
        return accepted(lm, requests, answers, law, self.tolerance, f"the server {self.url}")

    def follow(self, lm: LM, together: bool = False) -> None:
        """See to it that the server has the weights, as far as that is known and possible: the
        first of several processes that are there together sends them, for all.

        Raises:
            ValueError: they have changed and cannot be sent, or the server does not take them.
        """
        now = signature(lm)
        if self._weights == now:
            return
        if self.update is not None:
            weights = effective_weights(lm.model)
            if together:
                whole = gathered(weights)
                parallel.first(lambda: self._hand_over(lm, whole))
            else:
                self._hand_over(lm, weights)
        elif self._weights is not None:
            raise ValueError(STALE)
        self._weights = now

    def _hand_over(self, lm: LM, weights: dict[str, torch.Tensor]) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            write(lm, folder, weights)
            reload = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            try:
                self._send("/collective_rpc", reload)
                emptied = self._send("/reset_prefix_cache", {})
            except Refused as error:
                raise ValueError(
                    f"the server takes no new weights ({error}): start vLLM's with "
                    "VLLM_SERVER_DEV_MODE=1"
                ) from error
        if emptied.get("success") is False:
            raise ValueError(f"the server {self.url} could not empty its prefix cache")

    def _first_model(self) -> str:
        match self._send("/v1/models", None):
            case {"data": [{"id": str(name)}, *_]}:
                return name
        raise ValueError(f"the server {self.url} lists no model: name it with model=")

    def _send(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        secret = None if self.key is None else os.environ[self.key]
        attempt = partial(ask, self.url + path, body, self.timeout, secret)
        return patiently(attempt, self.retries, self.pause)

    def _ask(self, lm: LM, request: Request, law: Law, seed: int) -> Answer:
        body = {
            "model": self.model,
            "prompt": list(request.read),
            **sampling(lm, request, law, seed),
            "repetition_penalty": 1.0,  # a server may default to the model's own
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        try:
            found = self._send("/v1/completions", body)
        except Refused as error:
            raise ValueError(f"{error}; {NEEDS}") from error
        answer = self._answer(found, request)
        check(lm, request, answer, f"the server {self.url}")
        return answer

    def _answer(self, found: dict[str, Any], request: Request) -> Answer:
        """What the server drew, with the reason if that cannot be seen from what it sent."""
        match found:
            case {"choices": [dict(choice)]}:
                pass
            case _:
                raise ValueError(f"the server {self.url} sent no completion; {NEEDS}")
        match choice.get("logprobs"):
            case {"token_logprobs": list(logps), **more}:
                ids = choice.get("token_ids") or _named(more.get("tokens"))
            case _:
                raise ValueError(f"the server {self.url} sent no log-probabilities; {NEEDS}")
        if not isinstance(ids, list):
            raise ValueError(f"the server {self.url} sent no token ids; {NEEDS}")
        prompt = choice.get("prompt_token_ids")
        if prompt is not None and prompt != list(request.read):
            count = f"{len(prompt)} other tokens" if isinstance(prompt, list) else "something else"
            raise ValueError(
                f"the server {self.url} read {count} than the {len(request.read)} of the prompt"
            )
        return Answer(ids, logps, len(request.read) - _cached(found, len(request.read)))


def _named(tokens: Any) -> list[int] | None:
    """Token ids out of "token_id:17", `None` for words."""
    if not isinstance(tokens, list):
        return None
    found = [TOKEN.fullmatch(str(token)) for token in tokens]
    return [int(each[1]) for each in found if each] if all(found) else None


def _cached(found: dict[str, Any], read: int) -> int:
    """Prompt tokens, of so many, that the server had in its cache, where it says so."""
    match found:
        case {"usage": {"prompt_tokens_details": {"cached_tokens": int(count)}}}:
            return min(max(count, 0), read)
    return 0
