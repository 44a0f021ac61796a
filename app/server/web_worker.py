"""Gunicorn's threaded worker, which closes each connection in the thread that served it, and lets streams have theirs."""

import select
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from app.server.one_piece import OnePieceResponse

if TYPE_CHECKING:
    from app.streaming.server import StreamServer

# How long a thread waits for a client's next request before it leaves that to the main thread.
_LINGER_MS: Final = 5
_STREAMS_END_WITHIN_S: Final = 5.0

# What `wsgi.create` makes; Gunicorn has no setting for it.
wsgi.Response = OnePieceResponse


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """`ThreadWorker`, but for two things.

    Its main thread, which accepts connections, does not wait for any client. A connection is closed gracefully: for up to two
    seconds its client may close it first. Gunicorn waits for that in its main thread, one connection after the other: some
    twenty clients that just stay, and for a minute nobody else is let in, and Gunicorn takes the worker for stuck and kills it.

    And a view may take its connection away (`app/api/streams.py`): it detaches the socket. Then the connection is not
    Gunicorn's any more: not closed, not counted. Streams end when the worker is told to.
    """

    _streams: "StreamServer | None" = None

    def load_wsgi(self) -> None:
        """As Gunicorn's."""
        super().load_wsgi()
        from app.api.wiring import services_of  # the arbiter, which imports this module too, needs no application

        self._streams = services_of(self.wsgi).streams

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: streams are closed while requests are still being answered."""
        if self.alive and self._streams is not None:
            self.method_queue.defer(self._streams.begin_stop)  # not here: a signal may come while its lock is held
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """As Gunicorn's, and then streams are waited for."""
        try:
            super().run()
        finally:
            if self._streams is not None:
                self._streams.stop(_STREAMS_END_WITHIN_S)

    def handle(self, conn: TConn) -> object:
        """Serve a connection; in one of many threads."""
        goes_on = super().handle(conn)
        while goes_on is True and self._stays(conn):
            goes_on = super().handle(conn)
        if not goes_on and not _is_gone(conn):
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
        if _is_gone(conn):
            self.nr_conns -= 1
        else:
            super().finish_request(conn, fs)


def _is_gone(conn: TConn) -> bool:
    """Whether its socket was closed, or taken away."""
    return bool(conn.sock.fileno() < 0)
