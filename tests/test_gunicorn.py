"""What `gunicorn.conf.py` takes for granted of Gunicorn, and what it does to it."""

import socket
from concurrent.futures import Future

import pytest
from gunicorn.config import Config
from gunicorn.http import parser
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
    return made


@pytest.fixture
def connection():
    served, client = socket.socketpair()
    client.close()
    with served:
        yield TConn(Config(), served, "", "")


def served(worker: WebWorker, connection: TConn, monkeypatch: pytest.MonkeyPatch, *, goes_on: bool) -> "Future[object]":
    monkeypatch.setattr(ThreadWorker, "handle", lambda _worker, _connection: goes_on)
    done: Future[object] = Future()
    done.set_result(worker.handle(connection))
    return done


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
