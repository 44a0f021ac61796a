import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.embedder.framing import (
    MAX_OBJECT_BYTES,
    ConnectionEnded,
    FramingError,
    decode,
    encode,
    object_length,
    receive,
    receive_exactly,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.text(min_size=1, max_size=10).filter(lambda name: name != "length"), JSON, max_size=5)


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


def sent_in_pieces(connection: socket.socket, data: bytes, sizes: list[int]) -> threading.Thread:
    def send() -> None:
        at = 0
        for size in [*sizes, len(data)]:
            connection.sendall(data[at : at + size])
            at += size
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@given(MESSAGES, st.binary(max_size=500), st.lists(st.integers(1, 50), max_size=20))
def test_what_is_sent_in_any_pieces_arrives_whole(message, body, sizes):
    ours, theirs = socket.socketpair()
    with ours:
        thread = sent_in_pieces(theirs, encode(message, body), sizes)
        read, got = receive(ours)
        thread.join()
        assert got == body
        assert read == (message | {"length": len(body)} if body else message)
        with pytest.raises(ConnectionEnded):
            receive(ours)


@given(MESSAGES.filter(bool), st.binary(min_size=1, max_size=50), st.data())
def test_a_message_that_breaks_off_is_noticed(message, body, data):
    whole = encode(message, body)
    kept = data.draw(st.integers(0, len(whole) - 1))
    ours, theirs = socket.socketpair()
    with ours:
        thread = sent_in_pieces(theirs, whole[:kept], [])
        with pytest.raises(ConnectionEnded):
            receive(ours)
        thread.join()


@given(st.binary(max_size=200))
def test_anything_else_is_a_typed_error(data):
    ours, theirs = socket.socketpair()
    with ours:
        thread = sent_in_pieces(theirs, data, [])
        with pytest.raises((FramingError, ConnectionEnded)):
            receive(ours)
        thread.join()


@pytest.mark.parametrize("length", [-1, 1.5, "5", None, [], {}])
def test_a_body_of_no_length_is_no_message(ends, length):
    ours, theirs = ends
    theirs.sendall(encode({"length": length}))
    with pytest.raises(FramingError):
        receive(ours)


def test_a_long_object_is_refused_before_it_is_read(ends):
    ours, theirs = ends
    theirs.sendall(struct.pack(">I", MAX_OBJECT_BYTES + 1))
    with pytest.raises(FramingError):
        receive(ours)
    assert object_length(struct.pack(">I", MAX_OBJECT_BYTES)) == MAX_OBJECT_BYTES


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 10_000])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(FramingError):
        decode(data)


def test_silence_is_a_timeout_and_no_end(ends):
    ours, theirs = ends
    ours.settimeout(0.05)
    theirs.sendall(encode({"a": 1})[:6])
    with pytest.raises(TimeoutError):
        receive(ours)


def test_nothing_is_read_beyond_what_was_asked_for(ends):
    ours, theirs = ends
    theirs.sendall(b"abcdef")
    assert receive_exactly(ours, 4) == b"abcd"
    assert receive_exactly(ours, 0) == b""
    assert ours.recv(10) == b"ef"
