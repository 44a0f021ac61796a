"""What is said over one stream: frames and commands in, answers out, each in its time."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from app.deadline import Deadline
from app.errors import EmptyUpload, FacedexError, InvalidRequest
from app.streaming.closing import Closing, closing_of
from app.streaming.line import Line
from app.streaming.metrics import CLOSED, FRAMES, observe_answer
from app.streaming.rates import Budget
from app.streaming.session import Streamed
from app.streaming.wire import Wire
from app.tenancy import acting

R = TypeVar("R")

log = structlog.stdlib.get_logger("facedex.streaming")

# A frame that has waited longer shows what is no more.
_FRAME_MAX_AGE_S: Final = 2.0
_LOOK_WITHIN_S: Final = 4.0
# A result, an end, a goodbye: what is not done by then may be said again, or is done by the sweep.
_SAY_WITHIN_S: Final = 4.0
_COMMAND_MAX_BYTES: Final = 4096
_BAD_MESSAGES: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What one stream may do.

    Attributes:
        fps: frames a second that are looked at.
        idle_s: seconds without a message after which it is closed.
    """

    fps: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Turns:
    """Who may look at a frame now: so many streams at once as there are threads, the others in line, domain by domain."""

    line: Line
    threads: Executor


@dataclass(frozen=True, slots=True)
class _Frame:
    number: int
    picture: bytes
    came_s: float


class Dialogue:
    """One stream, from its greeting to its end. Everything happens in the loop's thread, but what waits.

    Of the frames that come while one is looked at, the newest waits; an older one is dropped, and the client is told.
    """

    def __init__(self, streamed: Streamed, limits: Limits, turns: Turns) -> None:
        self._streamed = streamed
        self._limits = limits
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._rate = Budget(limits.fps, self._loop.time)
        self._complaints = Budget(limits.fps, self._loop.time)
        self._unsaid: _Frame | None = None
        self._wire: Wire | None = None
        self._to_do = asyncio.Event()
        self._waiting: _Frame | None = None
        self._last_word: Callable[..., dict[str, Any]] | None = None
        self._frames = 0
        self._bad = 0
        self._closing: Closing | None = None
        self._lost = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # What the wire tells.

    def begin(self, wire: Wire) -> None:
        """The connection stands."""
        self._wire = wire
        wire.send(self._streamed.greeting)
        self._timers["expiry"] = self._loop.call_later(self._streamed.remaining_s, self._on_expiry)
        self._stay_awake()

    def on_message(self, data: bytes, *, is_text: bool) -> None:
        """A whole message came."""
        self._stay_awake()
        if is_text:
            self._on_text(data)
        elif data:
            self._on_picture(data)
        else:
            self._on_bad(EmptyUpload("An empty message is no picture."))

    def on_lost(self) -> None:
        """The connection is gone."""
        self._lost = True
        self._waiting = None
        for timer in self._timers.values():
            timer.cancel()
        self._to_do.set()

    # What the server does.

    async def serve(self) -> None:
        """Look at frames, one at a time, until the connection is gone."""
        try:
            while not self._lost:
                await self._to_do.wait()
                self._to_do.clear()
                while self._has_work():
                    async with self._turns.line.turn(self._who):
                        await self._take_turn()
        except Exception as error:
            log.error("[STREAM] Unexpected exception", exc_info=error, session=str(self._streamed.id))
            self._tell("internal_error", "An unexpected error; the log has the details.")
            self.end(Closing.INTERNAL)
        finally:
            if self._wire is not None and self._wire.gave_up:
                self._closing = Closing.DEAF
            code = str(int(self._closing)) if self._closing else "client"
            CLOSED.labels(code).inc()
            told = {"session": str(self._streamed.id), "request_id": self._streamed.request_id}
            log.info("[STREAM] Closed", code=code, frames=self._frames, **told)
            async with self._turns.line.turn(self._who):
                await self._in_thread(lambda: self._streamed.session.close(deadline=Deadline.after(_SAY_WITHIN_S)))

    def end(self, closing: Closing, reason: str = "") -> None:
        """Close the stream; what waits is not looked at."""
        self._closing = self._closing or closing
        self._waiting = self._last_word = None
        if self._wire is not None:
            self._wire.close(closing, reason)

    @property
    def _who(self) -> str:
        return self._streamed.reach.as_setting

    def _has_work(self) -> bool:
        is_open = self._wire is not None and self._wire.is_open
        return not self._lost and is_open and (self._waiting is not None or self._last_word is not None)

    async def _take_turn(self) -> None:
        frame, self._waiting = self._waiting, None
        try:
            if frame is not None:
                await self._look(frame)
            elif self._last_word is not None:
                say, self._last_word = self._last_word, None
                self._conclude(await self._in_thread(lambda: say(deadline=Deadline.after(_SAY_WITHIN_S))))
        except FacedexError as error:
            self._on_error(error, frame)

    async def _look(self, frame: _Frame) -> None:
        age_s = self._loop.time() - frame.came_s
        if age_s > _FRAME_MAX_AGE_S:
            self._drop(frame, "late")
            return
        look = self._streamed.session.look
        deadline = Deadline.after(_LOOK_WITHIN_S - age_s)
        answer = await self._in_thread(lambda: look(frame.picture, frame.number, deadline=deadline))
        observe_answer(answer, self._loop.time() - frame.came_s)
        self._conclude(answer)

    def _conclude(self, answer: dict[str, Any]) -> None:
        """Send an answer; the one with the result is the last."""
        if self._wire is not None:
            self._wire.send(answer)
        if answer.get("result") is not None or answer.get("type") == "result":
            self.end(Closing.DONE)

    async def _in_thread(self, function: Callable[[], R]) -> R:
        streamed = self._streamed

        def run() -> R:
            with (
                structlog.contextvars.bound_contextvars(request_id=streamed.request_id),
                acting(streamed.reach),
            ):
                return function()

        return await self._loop.run_in_executor(self._turns.threads, run)

    # What the client says.

    def _on_picture(self, data: bytes) -> None:
        self._frames += 1
        frame = _Frame(self._frames, data, self._loop.time())
        if self._last_word is not None:
            self._drop(frame, "finished")
        elif not self._rate.take():
            self._complain(frame)
        else:
            if self._waiting is not None:
                self._drop(self._waiting, "superseded")
            self._waiting = frame
            self._to_do.set()

    def _on_text(self, data: bytes) -> None:
        try:
            command = _command(data)
        except UnicodeDecodeError:
            self.end(Closing.NOT_UTF8)
        except InvalidRequest as error:
            self._on_bad(error)
        else:
            if command == "cancel":
                self._waiting = None
                self._last_word = self._streamed.session.cancel
            elif self._last_word is None:
                self._last_word = self._streamed.session.finish
            self._to_do.set()

    def _on_bad(self, error: FacedexError) -> None:
        self._bad += 1
        self._tell(error.code, str(error))
        if self._bad >= _BAD_MESSAGES:
            self.end(Closing.UNWELCOME, "too many messages that are none")

    def _on_error(self, error: FacedexError, frame: _Frame | None) -> None:
        if (closing := closing_of(error)) is not None:
            self._tell(error.code, str(error))
            self.end(closing)
        elif frame is None:
            self._tell(error.code, str(error))  # it may be said again
        else:
            log.warning(f"[STREAM] {error.code}: {error}", session=str(self._streamed.id))
            self._drop(frame, error.code)

    def _drop(self, frame: _Frame, reason: str) -> None:
        """Say that a frame is not looked at, unless the client has not even read what it was told before."""
        answer = self._streamed.session.drop(frame.number, reason)
        observe_answer(answer, self._loop.time() - frame.came_s)
        if self._wire is not None and not self._wire.is_behind:
            self._wire.send(answer)

    def _complain(self, frame: _Frame) -> None:
        """Drop a frame that came too soon: so many a second are told at once, of the others the newest a little later."""
        if self._unsaid is None and (wait_s := self._complaints.owe(1.0)) <= 0:
            self._drop(frame, "rate")
            return
        if self._unsaid is None:
            self._timers["complaint"] = self._loop.call_later(wait_s, self._complain_now)
        else:
            FRAMES.labels("dropped_rate").inc()
        self._unsaid = frame

    def _complain_now(self) -> None:
        frame, self._unsaid = self._unsaid, None
        if frame is not None:
            self._drop(frame, "rate")

    def _tell(self, code: str, detail: str) -> None:
        if self._wire is not None:
            self._wire.send({"type": "error", "code": code, "detail": detail})

    def _stay_awake(self) -> None:
        if (timer := self._timers.get("idle")) is not None:
            timer.cancel()
        self._timers["idle"] = self._loop.call_later(self._limits.idle_s, self._on_silence)

    def _on_silence(self) -> None:
        self._tell("silent", f"No message came for {self._limits.idle_s:g} seconds; connect again to go on.")
        self.end(Closing.SILENT)

    def _on_expiry(self) -> None:
        self._tell("session_expired", "The session has expired.")
        self.end(Closing.EXPIRED)


def _command(data: bytes) -> str:
    """The type of a command.

    Raises:
        UnicodeDecodeError: it is no text.
        InvalidRequest: it is no command.
    """
    if len(data) > _COMMAND_MAX_BYTES:
        raise InvalidRequest("A command is short JSON; pictures are sent as binary messages.")
    text = data.decode()
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    command = message.get("type") if isinstance(message, dict) else None
    if command not in ("finish", "cancel"):
        raise InvalidRequest('Send pictures as binary messages, and {"type": "finish"} or {"type": "cancel"} as text.')
    return str(command)
