"""One connection: bytes to messages and back, by `websockets`' protocol without I/O of its own; this is the I/O around it.

How that protocol is to be driven: https://websockets.readthedocs.io/en/stable/howto/sansio.html
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, Protocol

from websockets.frames import BINARY, CONT, TEXT, Frame
from websockets.protocol import OPEN

from app.streaming.closing import Closing
from app.streaming.handshake import Opened
from app.streaming.rates import Budget

# The protocol is fed so much at a time: what it makes of that is looked at before it gets more.
_SLICE_BYTES: Final = 16 * 1024
# Data frames, fragments, pings and pongs: their number costs time, however small they are.
_WIRE_FRAMES_PER_S: Final = 1000.0
# Answers that wait for a client to read them: from so many on, it is not listened to until it has read; nor told what is of
# little worth. With the second bound, or after the time, it is given up.
_UNREAD_BYTES: Final = 32 * 1024
_UNREAD_MAX_BYTES: Final = 256 * 1024
_UNREAD_FOR_S: Final = 10.0
_PING_EVERY_S: Final = 10.0
_SILENT_FOR_S: Final = 25.0
_CLOSE_WITHIN_S: Final = 2.0


class Receiver(Protocol):
    """Who is told what comes; in the loop's thread, and must not wait."""

    def begin(self, wire: "Wire") -> None:
        """The connection stands: messages may be sent."""
        ...

    def on_message(self, data: bytes, *, is_text: bool) -> None:
        """A whole message."""
        ...

    def on_lost(self) -> None:
        """The connection is gone, however it ended."""
        ...


class Wire(asyncio.Protocol):
    """A WebSocket connection whose handshake has been accepted.

    Args:
        opened: the handshake.
        receiver: told of messages.
        bytes_per_s, messages_per_s: what the client may send; more waits in its own buffers.

    Attributes:
        gave_up: whether the client was given up: it reads nothing, or does not answer pings.
    """

    def __init__(self, opened: Opened, receiver: Receiver, *, bytes_per_s: float, messages_per_s: float) -> None:
        self._protocol = opened.protocol
        self._answer = opened.answer
        self._receiver = receiver
        self._bytes = Budget(bytes_per_s)
        self._messages = Budget(messages_per_s)
        self._new_messages = 0
        self._frames = Budget(_WIRE_FRAMES_PER_S)
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._held_back: set[str] = set()
        self.gave_up = False
        self._is_text = False
        self._fragments = bytearray()
        self._closing = False

    @property
    def is_behind(self) -> bool:
        """Whether the client has not read what it was sent a while ago."""
        return "unread" in self._held_back

    @property
    def is_open(self) -> bool:
        """Whether messages still go out."""
        return self._protocol.state is OPEN and not self._closing

    def send(self, message: dict[str, Any]) -> None:
        """Send a message as JSON; nothing where the connection is about to end."""
        if self.is_open:
            self._protocol.send_text(json.dumps(message, ensure_ascii=False, allow_nan=False).encode())
            self._flush()

    def close(self, closing: Closing, reason: str = "") -> None:
        """Say goodbye; the connection ends when the client has answered that, or soon."""
        if self.is_open:
            self._protocol.send_close(closing, reason)
            self._flush()

    def abort(self) -> None:
        """End it at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: there is a transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        transport.write(self._answer)
        self._after(_PING_EVERY_S, "ping", self._ping)
        self._receiver.begin(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._heard_s = self._loop.time()
        for start in range(0, len(data), _SLICE_BYTES):
            self._protocol.receive_data(data[start : start + _SLICE_BYTES])
            self._flush()
            for event in self._protocol.events_received():
                if self.is_open and isinstance(event, Frame):
                    self._on_frame(event)
        messages, self._new_messages = self._new_messages, 0
        wait_s = max(self._bytes.owe(len(data)), self._messages.owe(messages))
        if self.is_open and wait_s:
            self._hold_back("rate")
            self._after(wait_s, "rate", lambda: self._let_go("rate"))

    def eof_received(self) -> None:
        """asyncio: the client sends nothing more; the transport is closed when all is written."""
        self._protocol.receive_eof()
        self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._receiver.on_lost()

    def pause_writing(self) -> None:
        """asyncio: the client does not read what it is sent."""
        self._hold_back("unread")
        self._after(_UNREAD_FOR_S, "unread", self._give_up)

    def resume_writing(self) -> None:
        """asyncio: it has read."""
        self._timers["unread"].cancel()
        self._let_go("unread")

    def _on_frame(self, frame: Frame) -> None:
        if not self._frames.take():
            self.close(Closing.UNWELCOME, "too many frames a second")
        elif frame.opcode in (TEXT, BINARY):
            self._is_text = frame.opcode is TEXT
            if frame.fin:
                self._on_message(bytes(frame.data))
            else:
                self._fragments = bytearray(frame.data)
        elif frame.opcode is CONT:
            self._fragments += frame.data  # the protocol has bounded their sum
            if frame.fin:
                whole, self._fragments = bytes(self._fragments), bytearray()
                self._on_message(whole)

    def _on_message(self, data: bytes) -> None:
        self._new_messages += 1
        self._receiver.on_message(data, is_text=self._is_text)

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._protocol.data_to_send():
            if self._transport.is_closing():
                return
            if data:
                self._transport.write(data)
            else:
                self._transport.write_eof()
        if self._transport.get_write_buffer_size() > _UNREAD_MAX_BYTES:
            self._give_up()
        if self._protocol.close_expected() and not self._closing:
            self._closing = True
            self._held_back.clear()
            self._transport.resume_reading()  # what it still sends is in the way of its hearing the goodbye
            self._after(_CLOSE_WITHIN_S, "close", self.abort)

    def _ping(self) -> None:
        if self._loop.time() - self._heard_s > _SILENT_FOR_S:
            self._give_up()
        elif self.is_open:
            self._protocol.send_ping(b"")
            self._flush()
            self._after(_PING_EVERY_S, "ping", self._ping)

    def _give_up(self) -> None:
        self.gave_up = True  # whoever reads nothing hears no goodbye
        self.abort()

    def _after(self, seconds: float, what: str, function: Callable[[], None]) -> None:
        if (earlier := self._timers.get(what)) is not None:
            earlier.cancel()
        self._timers[what] = self._loop.call_later(seconds, function)

    def _hold_back(self, why: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._held_back.add(why)
            self._transport.pause_reading()

    def _let_go(self, why: str) -> None:
        self._held_back.discard(why)
        if self._transport is not None and not self._held_back and not self._transport.is_closing():
            self._transport.resume_reading()
