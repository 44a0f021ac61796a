"""Clients of the service, many at a time, in a process of their own. Bare sockets: they share the machine with the service."""

import asyncio
import http.client
import json
import multiprocessing
import random
import re
import resource
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import click
import numpy as np

# The web closes a connection that was idle for five seconds; one that has been so for less is certain to be there.
_IDLE_S: Final = 2.0
_ANSWER_WITHIN_S: Final = 60.0
_BOUNDARY: Final = "facedex-bench"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: *\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's outcome.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        code: of the problem, or what went wrong on the way; empty for a success.
        elapsed_ms: from when it was to be sent to the end of the answer.
    """

    status: int
    code: str
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of clients saw.

    Attributes:
        answers: in the order in which they came.
        elapsed_s: from the first request to the last answer.
        cpu_s: processor time of the clients themselves.
    """

    answers: list[Answer]
    elapsed_s: float
    cpu_s: float

    @property
    def succeeded(self) -> list[Answer]:
        """Those with 200."""
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def rate(self) -> float:
        """Successes a second."""
        return len(self.succeeded) / self.elapsed_s

    @property
    def counts(self) -> dict[str, int]:
        """How many of each status and code."""
        counted = Counter(f"{answer.status} {answer.code}".strip() for answer in self.answers)
        return dict(sorted(counted.items()))

    def quantile_ms(self, quantile: float) -> float:
        """Of the successes."""
        return float(np.quantile([answer.elapsed_ms for answer in self.succeeded], quantile))


def upload(path: str, fields: dict[str, str], files: Sequence[tuple[str, bytes]], headers: dict[str, str]) -> bytes:
    """A whole request as `curl -F` sends it; `files` are names of fields and pictures."""
    parts = [_part(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [_part(f'name="{name}"; filename="photo.jpg"', data) for name, data in files]
    body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
    given = headers | {
        "Host": "127.0.0.1",
        "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
        "Content-Length": str(len(body)),
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def _part(disposition: str, data: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + data + b"\r\n"


class OneClient:
    """One client of a service, with one connection that it keeps; it reads the JSON of each answer."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(self, request: bytes) -> dict[str, Any]:
        """Send a whole request, of `upload` say, and read the answer.

        Raises:
            click.ClickException: it is no success.
        """
        self._connection.send(request)
        answer = self._connection.response_class(self._connection.sock, method="POST")
        answer.begin()
        body = answer.read()
        if not 200 <= answer.status < 300:
            raise click.ClickException(f"{answer.status}: {body.decode(errors='replace')}")
        told: dict[str, Any] = json.loads(body)
        return told

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


def closed_loop(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    *,
    seconds: float | None = None,
    count: int | None = None,
    first: int = 0,
) -> Load:
    """So many clients, each of which asks again once it is answered, for a time or a number of requests.

    Args:
        requests: sent in turn, and then again from the beginning.
        first: with which of them to begin.
    """
    return _in_a_process(_Clients(port, requests, first), "keep_busy", connections, seconds, count)


def open_loop(port: int, requests: Sequence[bytes], *, rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests that come when they come, whatever became of those before: a Poisson process, `rate` a second."""
    return _in_a_process(_Clients(port, requests), "arrive", rate, seconds, seed)


def _in_a_process(clients: "_Clients", method: Literal["keep_busy", "arrive"], *arguments: float | None) -> Load:
    # Not forked: the caller may have an engine loaded.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_run, clients, method, arguments).result()


def _run(clients: "_Clients", method: str, arguments: tuple[float | None, ...]) -> Load:
    before_s, started_s = _cpu_s(), time.perf_counter()
    asyncio.run(getattr(clients, method)(*arguments))
    return Load(clients.answers, time.perf_counter() - started_s, _cpu_s() - before_s)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Connection(asyncio.Protocol):
    """One connection, on which one request is under way at the most."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.idle_since_s = 0.0
        self._data = bytearray()
        self._wanted = 0
        self._answered: asyncio.Future[tuple[bytes, bytes]] | None = None

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer."""
        self._data.clear()
        self._wanted = 0
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._wanted and (end := self._data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._data, 0, end + 2)
            self._wanted = end + 4 + (int(length[1]) if length else 0)
        if self._wanted and len(self._data) >= self._wanted and self._answered and not self._answered.done():
            head, _, body = bytes(self._data).partition(b"\r\n\r\n")
            self._answered.set_result((head + b"\r\n", body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionResetError())


@dataclass(slots=True)
class _Clients:
    port: int
    requests: Sequence[bytes]
    first: int = 0
    answers: list[Answer] = field(default_factory=list)
    _idle: list[_Connection] = field(default_factory=list)
    _sent: int = 0

    async def keep_busy(self, connections: int, seconds: float | None, count: int | None) -> None:
        until_s = time.perf_counter() + seconds if seconds is not None else float("inf")

        async def client() -> None:
            while time.perf_counter() < until_s and (count is None or self._sent < count):
                await self._ask(time.perf_counter())

        await asyncio.gather(*(client() for _ in range(connections)))

    async def arrive(self, rate: float, seconds: float, seed: int) -> None:
        gaps = random.Random(seed)  # noqa: S311 - no secret
        started_s = due_s = time.perf_counter()
        asked = set()
        while (due_s := due_s + gaps.expovariate(rate)) < started_s + seconds:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            asked.add(asyncio.create_task(self._ask(due_s)))
        await asyncio.gather(*asked)

    async def _ask(self, due_s: float) -> None:
        request = self.requests[(self.first + self._sent) % len(self.requests)]
        self._sent += 1
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                status, code = await self._exchange(request)
        except (OSError, TimeoutError) as error:
            status, code = 0, type(error).__name__
        self.answers.append(Answer(status, code, (time.perf_counter() - due_s) * 1e3))

    async def _exchange(self, request: bytes) -> tuple[int, str]:
        connection = await self._connection()
        try:
            head, body = await connection.ask(request)
        except BaseException:
            connection.transport.close()
            raise
        if b"\r\nconnection: close" in head.lower():
            connection.transport.close()
        else:
            connection.idle_since_s = time.perf_counter()
            self._idle.append(connection)
        status = int(head.split(b" ", 2)[1])
        return status, "" if status == 200 else _code(head, body)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if time.perf_counter() - connection.idle_since_s < _IDLE_S and not connection.transport.is_closing():
                return connection
            connection.transport.close()
        return (await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self.port))[1]


def _code(head: bytes, body: bytes) -> str:
    """What a refusal says; a 503 that does not say when to come again says so here."""
    code = "no problem document"
    with suppress(ValueError, KeyError, TypeError):
        code = str(json.loads(body)["code"])
    return code if b" 503 " not in head[:16] or _RETRY_AFTER.search(head) else f"{code} without Retry-After"
