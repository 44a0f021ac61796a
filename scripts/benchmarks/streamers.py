"""Clients of sessions' streams, many at a time, in a process of their own: so many frames a second, whatever comes back."""

import asyncio
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any, Final

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

_OPEN_WITHIN_S: Final = 60.0
_MAX_FRAMES: Final = 120


@dataclass
class Streamed:
    """What the clients saw.

    Attributes:
        sent: frames.
        answers: how many `accepted`, `rejected`, or dropped for which reason; `unanswered` by the end.
        sessions: how many were begun; one that is decided is followed by another.
        lost: how many connections failed or ended without a result.
        elapsed_ms: from a frame to its answer, of those that were looked at.
        seconds: how long frames were sent.
    """

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    lost: int = 0
    elapsed_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def looked_at(self) -> int:
        """Frames."""
        return self.answers["accepted"] + self.answers["rejected"]

    def quantile_ms(self, quantile: float) -> float:
        """Of the frames that were looked at; not a number without any."""
        return float(np.quantile(self.elapsed_ms, quantile)) if self.elapsed_ms else float("nan")


@dataclass(frozen=True, slots=True)
class Streamers:
    """So many sessions at once, each with so many frames a second.

    Attributes:
        headers: that let one make sessions in the domain.
        pictures: each session shows some of these, over and over.
    """

    url: str
    headers: dict[str, str]
    domain: str
    pictures: Sequence[Sequence[bytes]]
    sessions: int
    fps: float


@contextmanager
def streaming(streamers: Streamers) -> Iterator[Streamed]:
    """Streams during the block, from when all of them are open; what they saw is there after it."""
    context = multiprocessing.get_context("spawn")  # not forked: the caller may have an engine loaded
    with context.Manager() as manager, ProcessPoolExecutor(1, mp_context=context) as process:
        ready, stop = manager.Event(), manager.Event()
        seen = process.submit(_run, streamers, ready, stop)
        try:
            while not ready.wait(0.2):
                if seen.done():
                    break
            result = Streamed()
            yield result
        finally:
            stop.set()
        result.__dict__.update(seen.result().__dict__)


@dataclass(frozen=True, slots=True)
class _Moments:
    """From when to when frames are sent: from when all streams are open."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def _run(streamers: Streamers, ready: Any, stop: Any) -> Streamed:
    return asyncio.run(_stream_all(streamers, ready, stop))


async def _stream_all(streamers: Streamers, ready: Any, stop: Any) -> Streamed:
    seen, moments = Streamed(), _Moments()
    async with httpx.AsyncClient(base_url=streamers.url, headers=streamers.headers, timeout=_OPEN_WITHIN_S) as http:
        names = count()
        opened = [asyncio.Event() for _ in range(streamers.sessions)]
        tasks = [
            asyncio.create_task(_keep_streaming(streamers, number, http, names, seen, opened[number], moments))
            for number in range(streamers.sessions)
        ]
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in opened)), _OPEN_WITHIN_S)
        ready.set()
        moments.begun.set()
        started_s = time.perf_counter()
        await asyncio.to_thread(stop.wait)
        moments.ended.set()
        seen.seconds = time.perf_counter() - started_s
        await asyncio.gather(*tasks)
    seen.answers["unanswered"] = seen.sent - seen.answers.total()
    return seen


async def _keep_streaming(
    streamers: Streamers,
    number: int,
    http: httpx.AsyncClient,
    names: Iterator[int],
    seen: Streamed,
    opened: asyncio.Event,
    moments: _Moments,
) -> None:
    pictures = streamers.pictures[number % len(streamers.pictures)]
    while not moments.ended.is_set():
        wanted = {"kind": "enrol", "person": f"somebody {next(names)}", "max_frames": _MAX_FRAMES}
        try:
            made = (await http.post(f"/v1/domains/{streamers.domain}/sessions", json=wanted)).raise_for_status().json()
            address = streamers.url.replace("http", "ws", 1) + made["stream"]
            token = {"Authorization": f"Bearer {made['token']}"}
            async with connect(
                address, additional_headers=token, compression=None, open_timeout=_OPEN_WITHIN_S
            ) as connection:
                await connection.recv()  # ready
                seen.sessions += 1
                opened.set()
                await moments.begun.wait()
                await asyncio.sleep(number / streamers.sessions / streamers.fps)  # not all at the same moment
                decided = await _one_session(streamers.fps, pictures, connection, seen, moments.ended)
                seen.lost += not (decided or moments.ended.is_set())
        except (OSError, InvalidHandshake, ConnectionClosed, httpx.HTTPError):
            seen.lost += 1
            await asyncio.sleep(0.5)


async def _one_session(
    fps: float, pictures: Sequence[bytes], connection: ClientConnection, seen: Streamed, ended: asyncio.Event
) -> bool:
    """Show pictures until the session is decided; whether it was."""
    sent_s: dict[int, float] = {}
    sender = asyncio.create_task(_send(fps, pictures, connection, seen, ended, sent_s))
    decided = False
    try:
        async for text in connection:
            message = json.loads(text)
            if message["type"] == "frame":
                _note(message, seen, sent_s)
            decided = decided or message.get("result") is not None
    except ConnectionClosed:
        pass
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
    return decided


def _note(message: dict[str, Any], seen: Streamed, sent_s: dict[int, float]) -> None:
    if message["dropped"]:
        seen.answers[f"dropped: {', '.join(message['reasons'])}"] += 1
        return
    seen.answers["accepted" if message["accepted"] else "rejected"] += 1
    seen.elapsed_ms.append((time.perf_counter() - sent_s[message["frame"]]) * 1e3)


async def _send(
    fps: float,
    pictures: Sequence[bytes],
    connection: ClientConnection,
    seen: Streamed,
    ended: asyncio.Event,
    sent_s: dict[int, float],
) -> None:
    due_s = time.perf_counter()
    for number, picture in enumerate(cycle(pictures), 1):
        if ended.is_set():
            await connection.close()
            return
        sent_s[number] = time.perf_counter()
        await connection.send(picture)
        seen.sent += 1
        due_s += 1 / fps
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
