import selectors
import socket

import pytest

from app.embedder.hangups import Hangups


@pytest.fixture
def hangups():
    watching = Hangups()
    yield watching
    watching.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_client_that_sends_has_not_gone(hangups, pair):
    ours, theirs = pair
    gone = []
    hangups.watch(ours, lambda: gone.append(1))
    theirs.send(b"picture")
    hangups.call()
    assert gone == []


@pytest.mark.parametrize("leave", [socket.socket.close, lambda end: end.shutdown(socket.SHUT_WR)])
def test_a_client_that_has_gone_is_noticed_by_a_selector(hangups, pair, leave):
    ours, theirs = pair
    gone = []

    def forget():
        gone.append(1)
        hangups.forget(ours)

    with selectors.DefaultSelector() as selector:
        selector.register(hangups, selectors.EVENT_READ)
        hangups.watch(ours, forget)
        theirs.send(b"unread")
        assert selector.select(0) == []
        leave(theirs)
        assert [key.fileobj for key, _ in selector.select(5)] == [hangups]
        hangups.call()
        hangups.call()
        assert gone == [1]
        assert list(hangups.connections()) == []


def test_who_is_forgotten_by_another_ones_end_is_not_told_of(hangups):
    first, second = socket.socketpair(), socket.socketpair()
    told = []

    def both_go(name):
        told.append(name)
        for ours, _ in (first, second):
            hangups.forget(ours)

    hangups.watch(first[0], lambda: both_go("first"))
    hangups.watch(second[0], lambda: both_go("second"))
    for _, theirs in (first, second):
        theirs.close()
    hangups.call()
    assert len(told) == 1
    for ours, _ in (first, second):
        ours.close()
