"""What `gunicorn.conf.py` takes for granted of Gunicorn, and what it does to it."""

import io
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from gunicorn.config import Config
from gunicorn.http import parser, wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

from app.server.web_worker import WebWorker


def test_the_limit_of_what_is_read_after_an_answer_is_there_to_be_set():
    """A name with an underscore, which another version may not have: to set it would then do nothing."""
    assert isinstance(parser._DRAIN_MAX_BYTES, int)
    assert "_DRAIN_MAX_BYTES" in parser.Parser.finish_body.__code__.co_names


@pytest.fixture
def worker():
    made = WebWorker.__new__(WebWorker)
    made.nr_conns = 1
    made.alive = True
    with ThreadPoolExecutor(1) as made.tpool:
        yield made


@pytest.fixture
def connection():
    served, client = socket.socketpair()
    with served, client:
        made = TConn(Config(), served, "", "")
        made.client_end, made.parser = client, Mock()
        made.parser.unreader.buf = io.BytesIO()
        yield made


def served(worker: WebWorker, connection: TConn, monkeypatch: pytest.MonkeyPatch, *, goes_on: bool) -> "Future[object]":
    monkeypatch.setattr(ThreadWorker, "handle", lambda _worker, _connection: goes_on)
    done: Future[object] = Future()
    done.set_result(worker.handle(connection))
    return done


def served_requests(worker: WebWorker, connection: TConn, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many requests the thread answers that got the connection: a byte is a request here."""
    answered = []

    def answer(_worker: WebWorker, connection: TConn) -> bool:
        answered.append(connection.sock.recv(1))
        return True

    connection.client_end.send(b"123")
    monkeypatch.setattr(ThreadWorker, "handle", answer)
    assert worker.handle(connection) is True
    return len(answered)


def test_a_thread_stays_for_the_clients_next_request(worker, connection, monkeypatch):
    assert served_requests(worker, connection, monkeypatch) == 3


def test_a_thread_does_not_stay_while_others_wait_for_one(worker, connection, monkeypatch):
    others = threading.Event()
    for _ in range(2):
        worker.tpool.submit(others.wait)
    assert served_requests(worker, connection, monkeypatch) == 1
    others.set()


def test_a_thread_does_not_stay_when_the_worker_is_to_end(worker, connection, monkeypatch):
    worker.alive = False
    assert served_requests(worker, connection, monkeypatch) == 1


def test_what_was_read_ahead_is_a_request_too(worker, connection, monkeypatch):
    answers = iter([True, False])
    monkeypatch.setattr(ThreadWorker, "handle", lambda _worker, _connection: next(answers))
    connection.parser.unreader.buf.write(b"GET /")
    assert worker.handle(connection) is False


def test_a_connection_is_closed_in_its_own_thread_and_counted_once(worker, connection, monkeypatch):
    done = served(worker, connection, monkeypatch, goes_on=False)
    assert connection.sock.fileno() == -1
    worker.finish_request(connection, done)
    assert worker.nr_conns == 0


def test_a_connection_that_is_kept_is_gunicorns(worker, connection, monkeypatch):
    kept = []
    monkeypatch.setattr(ThreadWorker, "finish_request", lambda _worker, *given: kept.append(given))
    done = served(worker, connection, monkeypatch, goes_on=True)
    assert connection.sock.fileno() >= 0
    worker.finish_request(connection, done)
    assert kept == [(connection, done)]
    assert worker.nr_conns == 1


def answer(*pieces: bytes, method: str = "GET", length: int | None = None, status: str = "200 OK") -> list[bytes]:
    """What is sent of a response, piece by piece."""
    sent: list[bytes] = []
    request = Mock(method=method, version=(1, 1), should_close=lambda: False)
    response = wsgi.Response(request, Mock(sendall=sent.append), Config())
    response.start_response(status, [("X-Told", "é")] + ([("Content-Length", str(length))] if length else []))
    for piece in pieces:
        response.write(piece)
    response.close()
    assert response.headers_sent
    return sent


def test_head_and_body_are_sent_in_one_piece():
    (whole,) = answer(b"body", length=4)
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nServer: ")
    assert head.endswith(b"\r\nConnection: keep-alive\r\nX-Told: \xe9\r\nContent-Length: 4")
    assert body == b"body"
    first, second = answer(b"bo", b"dy", length=4)
    assert (first[-6:], second) == (b"\r\n\r\nbo", b"dy")


def test_a_long_body_is_not_copied():
    head, body = answer(b"x" * 1_000_000, length=1_000_000)
    assert head.endswith(b"\r\n\r\n")
    assert len(body) == 1_000_000


def test_what_has_no_body_has_a_head():
    for sent in (answer(), answer(b""), answer(b"body", method="HEAD", length=4), answer(status="204 No Content")):
        assert sent[0].startswith(b"HTTP/1.1 20")
        assert sent[0].endswith(b"\r\n\r\n")
        assert sent[1:] in ([], [b"0\r\n\r\n"])  # the end of a body whose length nobody has told


def test_a_body_of_untold_length_is_sent_in_chunks():
    sent = b"".join(answer(b"one", b"", b"two"))
    assert sent.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert sent.count(b"\r\nTransfer-Encoding: chunked\r\n") == 1


def test_an_error_before_the_first_byte_leaves_room_for_an_answer_that_says_so():
    request = Mock(method="GET", version=(1, 1), should_close=lambda: False)
    response = wsgi.Response(request, Mock(), Config())
    response.start_response("200 OK", [])
    with pytest.raises(TypeError):
        response.write("text")
    assert not response.headers_sent


def test_a_connection_that_a_view_has_taken_away_is_neither_closed_nor_counted(worker, connection, monkeypatch):
    taken = []

    def take(_worker: WebWorker, connection: TConn) -> bool:
        taken.append(socket.socket(fileno=connection.sock.detach()))
        return False

    monkeypatch.setattr(ThreadWorker, "handle", take)
    done: Future[object] = Future()
    done.set_result(worker.handle(connection))
    worker.finish_request(connection, done)
    assert worker.nr_conns == 0
    with taken[0]:
        taken[0].send(b"still open")
        assert connection.client_end.recv(100) == b"still open"


def test_streams_are_closed_when_the_worker_is_told_to_end_and_not_by_the_signal_handler_itself(worker, monkeypatch):
    """Which may interrupt a thread that holds the lock it would need."""
    deferred, streams = [], Mock()
    worker._streams, worker.method_queue = streams, Mock(defer=deferred.append)
    monkeypatch.setattr(ThreadWorker, "handle_exit", lambda *_given: None)
    worker.handle_exit(15, None)
    assert streams.begin_stop.mock_calls == []
    assert deferred == [streams.begin_stop]


def test_streams_are_waited_for_however_the_worker_ends(worker, monkeypatch):
    def fail(_worker: WebWorker) -> None:
        raise SystemExit(1)

    worker._streams = Mock()
    monkeypatch.setattr(ThreadWorker, "run", fail)
    with pytest.raises(SystemExit):
        worker.run()
    worker._streams.stop.assert_called_once()
