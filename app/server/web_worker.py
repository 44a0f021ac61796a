"""Gunicorn's threaded worker, which closes each connection in the thread that served it."""

from concurrent.futures import Future
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """`ThreadWorker`, but for one thing: its main thread, which accepts connections, does not wait for any client.

    A connection is closed gracefully: for up to two seconds its client may close it first. Gunicorn waits for that in its main
    thread, one connection after the other: some twenty clients that just stay, and for a minute nobody else is let in, and
    Gunicorn takes the worker for stuck and kills it.
    """

    def handle(self, conn: TConn) -> object:
        """Serve a connection; in one of many threads."""
        goes_on = super().handle(conn)
        if not goes_on:
            conn.close(graceful=True)
        return goes_on

    def finish_request(self, conn: TConn, fs: "Future[Any]") -> None:
        """What is left to do after `handle`; in the main thread."""
        if conn.sock.fileno() < 0:
            self.nr_conns -= 1
        else:
            super().finish_request(conn, fs)
