"""A job that waits, and the connection on which its client waits for it."""

import socket
from dataclasses import dataclass

from app.embedder.framing import Message, encode
from app.embedder.job import Job


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A job in the queue. `since_s` is when it came, on the monotonic clock."""

    job: Job
    connection: socket.socket
    since_s: float


def reply(connection: socket.socket, message: Message, body: bytes = b"") -> None:
    """Say the last that there is to say on a connection, which is not waited for."""
    try:
        connection.setblocking(False)
        connection.sendall(encode(message, body))
    except OSError:
        pass  # whoever asked has gone, or does not read
    connection.close()
