"""A stream server with real sockets, without Gunicorn: each connection is accepted, its request read, and handed over."""

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from websockets.sync.client import ClientConnection, connect

from app.config import parse_settings
from app.deadline import Deadline
from app.errors import FacedexError
from app.streaming.handshake import open_protocol
from app.streaming.server import StreamServer
from app.streaming.session import Streamed
from app.tenancy import Reach, current_reach

RESULT = b"result"
"""A picture that decides the session."""


@dataclass
class FakeSession:
    """A session whose frames are words: it answers each, waits where it is told to, and remembers what it saw."""

    raises: dict[bytes, Exception] = field(default_factory=dict)
    gate: threading.Event | None = None
    answer_bytes: int = 0
    seen: list[int] = field(default_factory=list)
    reaches: set[Reach] = field(default_factory=set)
    started: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    at_once: int = 0
    most_at_once: int = 0

    def look(self, picture: bytes, frame: int, *, deadline: Deadline) -> dict:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.seen.append(frame)
            self.reaches.add(current_reach())
            self.started.set()
            if self.gate is not None:
                assert self.gate.wait(60)
            if picture in self.raises:
                raise self.raises[picture]
            answer = {"type": "frame", "frame": frame, "accepted": True, "bytes": len(picture)}
            if self.answer_bytes:
                answer["words"] = "x" * self.answer_bytes
            return answer | ({"result": {"decision": "accepted"}} if picture == RESULT else {})
        finally:
            self.at_once -= 1

    def drop(self, frame: int, reason: str) -> dict:
        return {"type": "frame", "frame": frame, "dropped": True, "reasons": [reason]}

    def finish(self, *, deadline: Deadline) -> dict:
        if b"finish" in self.raises:
            raise self.raises.pop(b"finish")
        self.reaches.add(current_reach())
        return {"type": "result", "result": {"decision": "finished"}}

    def cancel(self, *, deadline: Deadline) -> dict:
        return {"type": "result", "result": {"decision": "cancelled"}}

    def close(self, *, deadline: Deadline) -> None:
        self.closed.set()


class Serving:
    """The server's address, and what it serves."""

    def __init__(self, **settings) -> None:
        self.settings = parse_settings(**settings)
        self.server = StreamServer(self.settings)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.session = FakeSession()
        self.id: UUID = uuid4()
        self.remaining_s = 60.0
        self.domain_id = 7
        self.refused: list[FacedexError] = []

    @property
    def address(self) -> tuple[str, int]:
        return self.listener.getsockname()

    def connect(
        self, session: FakeSession | None = None, *, session_id: UUID | None = None, **options
    ) -> ClientConnection:
        """A client, whose connection has been handed over."""
        self.session, self.id = session or FakeSession(), session_id or uuid4()
        thread = threading.Thread(target=self._accept, args=(self.session, self.id))
        thread.start()
        host, port = self.address
        client = connect(f"ws://{host}:{port}/", compression=None, proxy=None, legacy=True, **options)
        thread.join()
        return client

    def raw(self, session: FakeSession | None = None, *, receive_buffer: int | None = None) -> socket.socket:
        """A client that has done the handshake, and does as it likes from then on."""
        self.session, self.id = session or FakeSession(), uuid4()
        thread = threading.Thread(target=self._accept, args=(self.session, self.id))
        thread.start()
        client = socket.socket()
        client.settimeout(30)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(self.address)
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        thread.join()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        return client

    def _accept(self, session: FakeSession, session_id: UUID) -> None:
        connection, _ = self.listener.accept()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        lines = head.decode().split("\r\n")[1:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        try:
            place = self.server.take_place()
            opened = open_protocol(
                "GET", "HTTP/1.1", headers, max_size=self.settings.session_max_frame_bytes, extra={"X-Request-ID": "r"}
            )
        except FacedexError as error:
            self.refused.append(error)
            connection.close()
            return
        streamed = Streamed(
            id=session_id,
            reach=Reach("somebody", frozenset({"hers"}), frozenset({self.domain_id})),
            remaining_s=self.remaining_s,
            greeting={"type": "ready"},
            session=session,
            request_id="r",
        )
        place.belongs_to("7", session_id)
        self.server.hand_over(connection, opened, streamed, place)


@contextmanager
def serving(**settings):
    """A server that is stopped at the end, with all that belongs to it."""
    before = set(threading.enumerate())
    made = Serving(**settings)
    try:
        yield made
    finally:
        made.server.stop(5)
        made.listener.close()
        if made.session.gate is not None:
            made.session.gate.set()
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(("streams", "frames")):
                thread.join(10)
                assert not thread.is_alive(), thread
