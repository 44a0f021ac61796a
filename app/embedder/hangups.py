"""Notices which of many waiting clients have gone, also where something lies to be read from them."""

import select
import socket
from collections.abc import Callable, Iterator


class Hangups:
    """Watches connections for their clients' end. A client that closes only its sending side counts as gone.

    It can be watched by a selector itself: it is readable when `call` has something to do.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[socket.socket, Callable[[], None]]] = {}

    def fileno(self) -> int:
        """For the selector."""
        return self._epoll.fileno()

    def watch(self, connection: socket.socket, call: Callable[[], None]) -> None:
        """Call something, once, when the client has gone; whoever is called forgets the connection. Twice is as once."""
        if connection.fileno() in self._watched:
            return
        self._epoll.register(connection, select.EPOLLRDHUP)  # EPOLLHUP and EPOLLERR come unasked
        self._watched[connection.fileno()] = connection, call

    def forget(self, connection: socket.socket) -> None:
        """Watch it no longer, if it was."""
        if self._watched.pop(connection.fileno(), None) is not None:
            self._epoll.unregister(connection)

    def call(self) -> None:
        """Tell of those who have gone."""
        for descriptor, _ in self._epoll.poll(0):
            if descriptor in self._watched:  # unless another one's end has settled it
                self._watched[descriptor][1]()

    def connections(self) -> Iterator[socket.socket]:
        """Those that are watched."""
        return (connection for connection, _ in self._watched.values())

    def close(self) -> None:
        """Let go of the kernel's list; in a forked process that is the copy of the descriptor only."""
        self._epoll.close()
