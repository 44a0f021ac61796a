"""A connection whose first message has not arrived in full."""

import socket
import time

from app.embedder.framing import LENGTH_BYTES, Message, decode, object_length


class Reading:
    """Reads a message bit by bit, as it comes. `since_s` is when the connection was made, on the monotonic clock."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.since_s = time.monotonic()
        self._data = bytearray()
        self._wanted = LENGTH_BYTES

    def read(self) -> Message | None:
        """Read what is there, and not a byte more than the message; the message where it is complete.

        Raises:
            FramingError: it is none.
            OSError: the other side has gone.
        """
        while True:
            try:
                part = self.connection.recv(self._wanted - len(self._data))
            except BlockingIOError:
                return None
            if not part:
                raise ConnectionResetError
            self._data += part
            if len(self._data) < self._wanted:
                continue
            if self._wanted > LENGTH_BYTES:
                return decode(bytes(self._data[LENGTH_BYTES:]))
            self._wanted += object_length(bytes(self._data))
