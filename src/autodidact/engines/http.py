"""JSON over HTTP, with patience. No proxy is used and no redirection followed."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from autodidact.redact import redacted_text

T = TypeVar("T")
BUSY = 429
PIECE = 65536
LARGEST = 2**28
"""Bytes of an answer: one of 100,000 tokens takes about a tenth of it."""
SHOWN = 500
"""Characters of a server's message that are shown."""


class Fault(Exception):
    """Something that may be gone the next time: nobody there, no time, no whole answer, a crash."""


class Refused(ValueError):
    """The server understood, and says no.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def place(url: str) -> SplitResult:
    """The parts of a server's address; `ValueError` for anything but http(s)://host[:port].

    User and password in it are refused too: it stands in run files and messages.
    """
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError(
            f"url={redacted_text(url)!r} is not allowed: it must look like http://host:8000"
        )
    if "@" in found.netloc:
        raise ValueError(
            f"url={redacted_text(url)!r} is not allowed: it carries a user or a password; a server "
            "that wants a key gets it by key=NAME, a variable of the environment"
        )
    return found


def ask(
    url: str, body: dict[str, Any] | None, timeout: float, secret: str | None = None
) -> dict[str, Any]:
    """One request: POST with a body, GET without. Returns the JSON object of the answer.

    Args:
        timeout: seconds for all of it; an answer that drips in slowly is cut off then.
        secret: sent as a bearer token; it appears in no message.

    Raises:
        Fault: worth another try.
        Refused: not worth one.
    """
    try:
        status, text = _exchange(place(url), body, timeout, secret)
    except TimeoutError as error:
        raise Fault(f"no whole answer from {url} within {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise Fault(f"no answer from {url}: {error or type(error).__name__}") from error
    if status != http.client.OK:
        shown = text.decode(errors="replace").strip()[:SHOWN]
        shown = shown.replace(secret, "***") if secret else shown
        message = f"{url} answered {status}: {shown or 'nothing'}"
        raise (
            Fault(message)
            if status == BUSY or status >= http.client.INTERNAL_SERVER_ERROR
            else Refused(status, message)
        )
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter for brackets in brackets
        raise Fault(f"{url} sent broken JSON of {len(text)} bytes: {error}") from error
    if not isinstance(answer, dict):
        raise Refused(status, f"{url} sent no JSON object but {type(answer).__name__}")
    return answer


def _exchange(
    at: SplitResult, body: dict[str, Any] | None, timeout: float, secret: str | None
) -> tuple[int, bytes]:
    """The status and the bytes that come back before the time is over."""
    deadline = time.monotonic() + timeout
    kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
    assert at.hostname is not None
    line = kind(at.hostname, at.port, timeout=timeout)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    try:
        line.connect()
        with _cut(line.sock, deadline):
            path = at.path + (f"?{at.query}" if at.query else "")
            payload = None if body is None else json.dumps(body)
            line.request("GET" if body is None else "POST", path, payload, headers)
            answer, text = line.getresponse(), bytearray()
            while piece := answer.read1(PIECE):
                text += piece
                if len(text) > LARGEST:
                    raise http.client.HTTPException(f"more than {LARGEST} bytes")
        if time.monotonic() < deadline:
            return answer.status, _all(answer, bytes(text))
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() < deadline:
            raise
        raise TimeoutError from error
    finally:
        line.close()
    raise TimeoutError


@contextmanager
def _cut(line: socket.socket, deadline: float) -> Iterator[None]:
    """Cut a connection at a time of `time.monotonic`, whatever it waits for then.

    A limit on each wait would not do: a server may send one byte of a header after the other.
    """

    def cut() -> None:
        with suppress(OSError):  # the other side was faster
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(deadline - time.monotonic(), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _all(answer: http.client.HTTPResponse, text: bytes) -> bytes:
    """The bytes, if as many came as were announced."""
    if answer.length:  # what is missing
        raise http.client.IncompleteRead(text, answer.length)
    return text


def patiently(attempt: Callable[[], T], retries: int, pause: float) -> T:
    """The first result of `attempt`, tried again after `Fault`.

    The wait before retry i is pause * 2^i seconds.

    Raises:
        ValueError: also the last retry failed.
    """
    for retry in range(retries):
        try:
            return attempt()
        except Fault:
            time.sleep(pause * 2**retry)
    try:
        return attempt()
    except Fault as error:
        raise ValueError(f"{error} (tried {retries + 1} times)") from error
