"""Clients that do what no client should: each costs little, ends soon, and the others do not notice."""

import json
import socket
import struct
import threading
import time
from contextlib import suppress

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from app.streaming import wire
from app.streaming.metrics import CLOSED
from tests.streaming.serving import FakeSession, serving

_MASK = b"\0\0\0\0"
_BINARY, _TEXT, _PING = 2, 1, 9


@pytest.fixture(scope="module")
def server():
    with serving(session_max_frame_bytes=64 * 1024, session_max_fps=200) as made:
        yield made


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, length: int | None = None) -> bytes:
    """A frame as a client sends it; `length` is what its head says, whatever comes."""
    length = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | opcode])
    if length < 126:
        return head + bytes([0x80 | length]) + _MASK + payload
    if length < 65536:
        return head + struct.pack("!BH", 0x80 | 126, length) + _MASK + payload
    return head + struct.pack("!BQ", 0x80 | 127, length) + _MASK + payload


def close_code(client: socket.socket) -> int | None:
    """How the server closes, which it has to do before the test's patience ends; None where it just ends the connection."""
    client.settimeout(30)
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    while len(data) >= 2:
        opcode, length, at = data[0] & 15, data[1] & 127, 2
        if length == 126:
            (length,), at = struct.unpack("!H", data[2:4]), 4
        if opcode == 8:
            return struct.unpack("!H", data[at : at + 2])[0]
        data = data[at + length :]
    return None


def others_are_served(server) -> None:
    with server.connect() as client:
        assert json.loads(client.recv(timeout=60)) == {"type": "ready"}
        client.send(b"x")
        assert json.loads(client.recv(timeout=60))["accepted"]


def memory_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def test_fifty_megabytes_are_refused_by_their_length_and_never_kept(server):
    before_mb = memory_mb()
    with server.raw() as client:
        client.sendall(frame(_BINARY, length=50 * 2**20))
        sender = threading.Thread(target=send_until_it_fails, args=(client, b"x" * 2**20, 50))
        sender.start()
        assert close_code(client) == 1009
        sender.join(30)
    assert server.session.seen == []
    assert memory_mb() - before_mb < 40
    others_are_served(server)


def send_until_it_fails(client: socket.socket, data: bytes, times: int) -> None:
    try:
        for _ in range(times):
            client.sendall(data)
    except OSError:
        pass


@pytest.mark.parametrize(
    "first",
    [
        b"\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x82\x01x",
        frame(3),
        frame(0),
        frame(_PING, b"x" * 126),
    ],
    ids=["noise", "http", "unmasked", "unknown opcode", "a continuation of nothing", "a long ping"],
)
def test_what_is_no_frame_ends_the_connection(server, first):
    with server.raw() as client:
        client.sendall(first)
        assert close_code(client) == 1002
    assert server.session.closed.wait(60)
    others_are_served(server)


def test_a_flood_of_tiny_fragments_is_cut_off(server):
    with server.raw() as client:
        flood = frame(_BINARY, b"", fin=False) + frame(0, b"", fin=False) * 20_000
        sender = threading.Thread(target=send_until_it_fails, args=(client, flood, 50))
        sender.start()
        assert close_code(client) == 1008
        sender.join(30)
    others_are_served(server)


def test_of_tiny_messages_a_few_a_second_are_read_and_the_others_wait_at_the_client():
    """However small, each costs the loop that all streams share."""
    with serving(session_max_fps=5) as slow, slow.raw() as client:
        for _ in range(3):
            client.sendall(frame(_BINARY, b"x") * 300)
            others_are_served(slow)  # the loop has had its time
        dialogue = next(iter(slow.server._dialogues.values()))
        assert dialogue._frames < 900


def test_a_flood_of_pings_is_cut_off(server):
    with server.raw() as client:
        sender = threading.Thread(target=send_until_it_fails, args=(client, frame(_PING) * 20_000, 50))
        sender.start()
        assert close_code(client) == 1008
        sender.join(30)
    others_are_served(server)


def test_a_client_that_reads_nothing_is_given_up_and_holds_no_memory(server, monkeypatch):
    """It sends frames all the time, and each answer is long."""
    monkeypatch.setattr(wire, "_UNREAD_FOR_S", 0.5)
    before_mb, given_up = memory_mb(), CLOSED.labels("4005")._value.get()
    with server.raw(FakeSession(answer_bytes=20_000), receive_buffer=4096) as client:
        sender = threading.Thread(target=send_until_it_fails, args=(client, frame(_BINARY, b"x" * 60_000), 10_000))
        sender.start()
        assert server.session.closed.wait(60)
        with suppress(OSError):  # a reset may have come through
            client.shutdown(socket.SHUT_RDWR)
        sender.join(30)
    assert CLOSED.labels("4005")._value.get() == given_up + 1
    assert memory_mb() - before_mb < 40
    others_are_served(server)


def test_a_client_that_has_gone_without_a_word_is_noticed(server, monkeypatch):
    """Half open: no message, no answer to pings, and the connection stands."""
    monkeypatch.setattr(wire, "_PING_EVERY_S", 0.1)
    monkeypatch.setattr(wire, "_SILENT_FOR_S", 0.3)
    with server.raw():
        assert server.session.closed.wait(60)


def test_a_client_that_answers_pings_stays(server, monkeypatch):
    monkeypatch.setattr(wire, "_PING_EVERY_S", 0.05)
    monkeypatch.setattr(wire, "_SILENT_FOR_S", 3.0)
    with server.connect() as client:
        client.recv(timeout=60)
        pings = threading.Event()
        assert not pings.wait(4.0)  # the library answers them in a thread of its own
        client.send(b"x")
        assert json.loads(client.recv(timeout=60))["accepted"]


def test_a_picture_that_comes_in_drops_is_no_message_until_it_is_whole():
    """Slowloris: bytes all the time, and never a message."""
    with serving(session_idle_s=0.5) as short, short.raw() as client:
        client.sendall(frame(_BINARY, length=1000))
        dripping = threading.Event()
        thread = threading.Thread(target=drip, args=(client, dripping))
        thread.start()
        code = close_code(client)
        dripping.set()
        thread.join(10)
        assert code == 4002
        assert short.session.closed.wait(60)


def drip(client: socket.socket, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        try:
            client.sendall(b"x")
        except OSError:
            return


def test_many_streams_hold_no_thread_each(server):
    others_are_served(server)
    before = threading.active_count()
    clients = [server.raw() for _ in range(40)]
    assert threading.active_count() <= before + server.server._threads
    for client in clients:
        client.close()


def test_one_that_hangs_up_during_its_frame_does_not_keep_others_from_their_turn(server):
    gate = threading.Event()
    gone = [FakeSession(gate=gate) for _ in range(5)]
    for session in gone:
        with server.raw(session) as client:
            client.sendall(frame(_BINARY, b"x"))
    time.sleep(0.05)
    gate.set()
    others_are_served(server)
    assert all(session.closed.wait(60) for session in gone)


def test_a_goodbye_is_answered(server):
    with server.connect() as client:
        client.recv(timeout=60)
        client.close(1000)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
    assert closed.value.rcvd.code == 1000
