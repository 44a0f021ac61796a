"""Gunicorn's threaded worker, which closes each connection in the thread that served it, and answers in one piece."""

import select
from concurrent.futures import Future
from typing import Any, Final

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

# How long a thread waits for a client's next request before it leaves that to the main thread.
_LINGER_MS: Final = 5
# Longer bodies are not copied to stand behind their head.
_ONE_PIECE_MAX_BYTES: Final = 64 * 1024


class OnePieceResponse(wsgi.Response):  # type: ignore[misc]
    """Sends the head together with the first bytes of the body: each piece wakes the client up, and the kernel's network."""

    headers_sent: bool
    _writing = False

    def write(self, arg: bytes) -> None:
        """Part of the body. Without one, `close` sends the head."""
        self._writing = True
        try:
            super().write(arg)
        finally:
            self._writing = False

    def send_headers(self) -> None:
        """The head alone, unless part of the body is about to follow."""
        if not self._writing:
            super().send_headers()

    def _emit_body(self, data: bytes) -> None:
        if not self.headers_sent:
            if len(data) > _ONE_PIECE_MAX_BYTES or self.chunked:
                super().send_headers()
            else:
                lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
                data = util.to_bytestring("".join(lines), "latin-1") + data
                self.headers_sent = True
        super()._emit_body(data)


# What `wsgi.create` makes; Gunicorn has no setting for it.
wsgi.Response = OnePieceResponse


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """`ThreadWorker`, but for one thing: its main thread, which accepts connections, does not wait for any client.

    A connection is closed gracefully: for up to two seconds its client may close it first. Gunicorn waits for that in its main
    thread, one connection after the other: some twenty clients that just stay, and for a minute nobody else is let in, and
    Gunicorn takes the worker for stuck and kills it.
    """

    def handle(self, conn: TConn) -> object:
        """Serve a connection; in one of many threads."""
        goes_on = super().handle(conn)
        while goes_on is True and self._stays(conn):
            goes_on = super().handle(conn)
        if not goes_on:
            conn.close(graceful=True)
        return goes_on

    def _stays(self, conn: TConn) -> bool:
        """Whether this thread serves the connection's next request as well: it is there, or comes at once."""
        if not self.alive or not self.tpool._work_queue.empty():
            return False
        if conn.parser.unreader.buf.getvalue():
            return True
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(_LINGER_MS))

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """What is left to do after `handle`; in the main thread."""
        if conn.sock.fileno() < 0:
            self.nr_conns -= 1
        else:
            super().finish_request(conn, fs)
