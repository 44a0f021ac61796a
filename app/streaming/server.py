"""All streams of one web process: one thread with one event loop, started at the first of them, after the fork."""

import asyncio
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog

from app.config import Settings
from app.deadline import Deadline
from app.errors import StreamsUnavailable
from app.streaming.closing import Closing
from app.streaming.dialogue import Dialogue, Limits, Turns
from app.streaming.handshake import Opened
from app.streaming.line import Line
from app.streaming.places import Place, Places
from app.streaming.session import Streamed
from app.streaming.wire import Wire
from app.tenancy import acting

log = structlog.stdlib.get_logger("facedex.streaming")

# Threads that look at frames: they wait for the pool, which has a queue of its own for them. Twice as many as the pool has
# workers: one domain has half of them at most.
_THREADS_MIN: Final = 4
_THREADS_MAX: Final = 16
# Of the frames that are looked at: what comes beyond that is not read before its time, however small it is.
_MESSAGES_PER_FRAME: Final = 4.0
_MESSAGES_MIN_PER_S: Final = 10.0
_THREAD_ENDS_WITHIN_S: Final = 2.0
# Of the kernel, which would keep megabytes for a client that reads nothing.
_SEND_BUFFER_BYTES: Final = 64 * 1024


class StreamServer:
    """Takes connections over from whoever has answered their first request. Makes no thread before the first of them."""

    def __init__(self, settings: Settings) -> None:
        self._limits = Limits(settings.session_max_fps, settings.session_idle_s)
        self._bytes_per_s = settings.session_max_fps * settings.session_max_frame_bytes
        self._messages_per_s = max(_MESSAGES_MIN_PER_S, _MESSAGES_PER_FRAME * settings.session_max_fps)
        self._threads = min(_THREADS_MAX, max(_THREADS_MIN, 2 * settings.embedder_workers))
        self._places = Places(settings.session_max_streams)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._turns: Turns | None = None
        self._stopping = False
        # Of the loop's thread alone:
        self._dialogues: dict[asyncio.Task[None], Dialogue] = {}
        self._newest: dict[UUID, Dialogue] = {}

    def take_place(self) -> Place:
        """A place for one more stream.

        Raises:
            StreamsFull: there is none.
            StreamsUnavailable: the process is about to end.
        """
        if self._stopping:
            raise StreamsUnavailable("This process is about to end; connect again.")
        return self._places.take()

    def hand_over(self, connection: socket.socket, opened: Opened, streamed: Streamed, place: Place) -> None:
        """Serve a connection from now on, and close everything that belongs to it at its end. Waits for nobody."""
        try:
            loop = self._running_loop()
        except Exception as error:  # the connection is nobody else's any more
            if not isinstance(error, StreamsUnavailable):
                log.error("[STREAM] Unexpected exception", exc_info=error)
            connection.close()
            place.release()
            with acting(streamed.reach):
                streamed.session.close(deadline=Deadline.after(_THREAD_ENDS_WITHIN_S))
            return
        asyncio.run_coroutine_threadsafe(self._serve(connection, opened, streamed, place), loop)

    def begin_stop(self) -> None:
        """Open no more streams, and begin to close those that are open; clients connect again elsewhere. Waits for nobody."""
        with self._lock:
            self._stopping = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._end_all)

    def stop(self, within_s: float) -> None:
        """End all streams, in that time, and the thread."""
        self.begin_stop()
        if self._loop is None or self._thread is None or self._turns is None:
            return
        ended: Future[None] = asyncio.run_coroutine_threadsafe(self._wait_for_all(within_s), self._loop)
        with suppress(TimeoutError):
            ended.result(within_s + _THREAD_ENDS_WITHIN_S)
        with self._lock:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None
        self._thread.join(_THREAD_ENDS_WITHIN_S)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._stopping:
                raise StreamsUnavailable("This process is about to end; connect again.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threads = ThreadPoolExecutor(self._threads, thread_name_prefix="frames")
                self._turns = Turns(Line(self._threads), threads)
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop, threads), name="streams", daemon=True
                )
                self._thread.start()
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            loop.close()

    async def _serve(self, connection: socket.socket, opened: Opened, streamed: Streamed, place: Place) -> None:
        assert self._turns is not None
        dialogue = Dialogue(streamed, self._limits, self._turns)
        task = asyncio.current_task()
        assert task is not None
        self._dialogues[task] = dialogue
        try:
            if (older := self._newest.get(streamed.id)) is not None:
                older.end(Closing.TAKEN_OVER, "a newer connection streams to this session")
            self._newest[streamed.id] = dialogue
            wire = Wire(opened, dialogue, bytes_per_s=self._bytes_per_s, messages_per_s=self._messages_per_s)
            await self._connect(connection, wire, dialogue)
            if self._stopping:
                dialogue.end(Closing.RESTART, "service restart")
            await dialogue.serve()
        finally:
            place.release()
            del self._dialogues[task]
            if self._newest.get(streamed.id) is dialogue:
                del self._newest[streamed.id]

    @staticmethod
    async def _connect(connection: socket.socket, wire: Wire, dialogue: Dialogue) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: wire, connection)
        except OSError:  # the client has gone meanwhile
            connection.close()
            dialogue.on_lost()

    def _end_all(self) -> None:
        for dialogue in self._dialogues.values():
            dialogue.end(Closing.RESTART, "service restart")

    async def _wait_for_all(self, within_s: float) -> None:
        tasks = set(self._dialogues)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=within_s)
        if late:
            log.warning(f"[STREAM] {len(late)} streams did not end in time")
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_THREAD_ENDS_WITHIN_S)
