"""Messages on a stream: four bytes with the length of a JSON object, the object, and then `length` bytes where it has one.

A job goes so: the client connects and sends its object. The pool answers with an error, or hands the connection to a worker,
which says `{"go": true}`; only then does the client send the picture, and the worker answers. So a queued job holds no
picture in memory twice. A short picture (`early`) follows its object at once, and nobody says "go".
"""

import json
import socket
import struct
from typing import Any, Final

from app.deadline import Deadline

LENGTH_BYTES: Final = 4
MAX_OBJECT_BYTES: Final = 16 * 1024
_LENGTH: Final = struct.Struct(">I")
_READ_BYTES: Final = 64 * 1024

Message = dict[str, Any]


class FramingError(Exception):
    """The other side sent something else than a message."""


class ConnectionEnded(Exception):
    """The other side closed the connection, or died, before the message was complete."""


def encode(message: Message, body: bytes = b"") -> bytes:
    """One message with its body, ready to be sent."""
    data = json.dumps(message | {"length": len(body)} if body else message).encode()
    return _LENGTH.pack(len(data)) + data + body


def receive(connection: socket.socket) -> tuple[Message, bytes]:
    """The next message and its body. Both sides speak in turn: nothing follows it before it is answered.

    Raises:
        TimeoutError: nothing came within the socket's timeout.
        ConnectionEnded: as its name says.
        FramingError: it is no message.
    """
    data = bytearray()
    _fill(connection, data, LENGTH_BYTES)
    body_at = LENGTH_BYTES + object_length(bytes(data[:LENGTH_BYTES]))
    _fill(connection, data, body_at)
    message = decode(bytes(data[LENGTH_BYTES:body_at]))
    length = message.get("length", 0)
    if not isinstance(length, int) or length < 0:
        raise FramingError
    _fill(connection, data, body_at + length)
    if len(data) > body_at + length:
        raise FramingError
    return message, bytes(data[body_at:])


def receive_exactly(connection: socket.socket, count: int, deadline: Deadline | None = None) -> bytes:
    """That many bytes, and none that follow.

    Args:
        deadline: until when all of them have to be there; without one, the socket's timeout holds for each part that comes.

    Raises:
        TimeoutError, ConnectionEnded: as `receive`.
    """
    data = bytearray(count)
    view, have = memoryview(data), 0
    while have < count:
        if deadline is not None:
            connection.settimeout(max(deadline.remaining_s(), 0.001))
        try:
            got = connection.recv_into(view[have:])
        except (ConnectionResetError, BrokenPipeError):
            got = 0
        if not got:
            raise ConnectionEnded
        have += got
    return bytes(data)


def _fill(connection: socket.socket, data: bytearray, count: int) -> None:
    """Receive until there are `count` bytes at least: most messages come whole, and each call costs a thread its turn."""
    while len(data) < count:
        try:
            part = connection.recv(_READ_BYTES)
        except (ConnectionResetError, BrokenPipeError):
            part = b""
        if not part:
            raise ConnectionEnded
        data += part


def object_length(data: bytes) -> int:
    """The length of the JSON object that follows these four bytes.

    Raises:
        FramingError: it is longer than any message.
    """
    (length,) = _LENGTH.unpack(data)
    if length > MAX_OBJECT_BYTES:
        raise FramingError
    return int(length)


def decode(data: bytes) -> Message:
    """The object itself.

    Raises:
        FramingError: it is none.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FramingError from error
    if not isinstance(message, dict):
        raise FramingError
    return message
