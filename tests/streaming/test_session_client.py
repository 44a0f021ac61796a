"""The client's side of a stream, against a server that says what a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.server import ServerConnection, serve

from scripts import session_client
from scripts.session_client import Session, SessionFailed, Stream

FRAME = {"type": "frame", "dropped": False, "accepted": True}


class Server:
    """Greets each connection, and hands it over."""

    def __init__(self, talk: Callable[[ServerConnection], None]) -> None:
        self.connections = 0
        self._talk = talk

    def handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        connection.send(json.dumps({"type": "ready"}))
        self._talk(connection)

    def session(self, address: tuple[str, int], result: dict | None = None) -> Session:
        host, port = address[:2]
        return Session("s", "t", f"ws://{host}:{port}/", lambda: result)


@contextmanager
def talking(talk: Callable[[ServerConnection], None], result: dict | None = None) -> Iterator[tuple[Server, Session]]:
    made = Server(talk)
    with serve(made.handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made, made.session(server.socket.getsockname(), result)
        finally:
            server.shutdown()
            thread.join(10)


def test_an_error_is_an_answer_and_nobody_waits_for_another(monkeypatch):
    monkeypatch.setattr(session_client, "_WITHIN_S", 10.0)

    def talk(connection: ServerConnection) -> None:
        for number, _ in enumerate(connection, 1):
            told = {"type": "error", "code": "odd", "detail": "x"} if number == 1 else FRAME | {"frame": number}
            connection.send(json.dumps(told))

    with talking(talk) as (server, session), Stream(session) as stream:
        assert stream.show(b"x")["accepted"]
    assert server.connections == 1


def ended(connection: ServerConnection) -> None:
    connection.recv()
    connection.send(json.dumps({"type": "error", "code": "session_ended", "detail": "x"}))
    connection.close(4004)


def test_of_a_session_that_has_ended_the_result_is_asked_for():
    with talking(ended, {"outcome": "enrolled"}) as (_, session), Stream(session) as stream:
        assert stream.show(b"x")["result"] == {"outcome": "enrolled"}


def test_without_a_result_the_session_has_failed():
    with talking(ended) as (_, session), Stream(session) as stream, pytest.raises(SessionFailed, match="4004"):
        stream.show(b"x")


def test_an_empty_file_is_no_frame():
    with talking(ended) as (server, session), Stream(session) as stream:
        assert stream.show(b"")["reasons"] == ["empty_upload"]
    assert server.connections == 0
