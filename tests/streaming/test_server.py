"""Streams over real sockets, with a session of words."""

import json
import threading
import time
from contextlib import suppress
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from app.errors import (
    DatabaseUnavailable,
    InvalidImage,
    PersonErased,
    PoolBusy,
    StreamsFull,
    StreamsUnavailable,
    TooManyStreams,
    WorkerTimeout,
)
from app.streaming import dialogue
from app.streaming.places import Places
from app.tenancy import Reach
from tests.streaming.serving import RESULT, FakeSession, serving


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """However busy the machine is: a frame that has waited is dropped for a newer one only, where a test does not say else."""
    monkeypatch.setattr(dialogue, "_FRAME_MAX_AGE_S", 60.0)


@pytest.fixture(scope="module")
def server():
    with serving(session_max_frame_bytes=64 * 1024, session_max_fps=50, embedder_workers=2) as made:
        yield made


def heard(client) -> dict:
    return json.loads(client.recv(timeout=60))


def end_of(client) -> tuple[list[dict], int, str]:
    """All that the client is still told, and how the stream is closed."""
    told = []
    try:
        while True:
            told.append(heard(client))
    except ConnectionClosed as closed:
        return told, closed.rcvd.code if closed.rcvd else 1006, closed.rcvd.reason if closed.rcvd else ""


def test_each_frame_is_answered_and_the_result_closes_the_stream(server):
    with server.connect() as client:
        assert client.response.headers["X-Request-ID"] == "r"
        assert heard(client) == {"type": "ready"}
        client.send(b"one")
        assert heard(client) == {"type": "frame", "frame": 1, "accepted": True, "bytes": 3}
        client.send(RESULT)
        assert heard(client)["result"] == {"decision": "accepted"}
        assert end_of(client) == ([], 1000, "")
    assert server.session.closed.wait(60)


def test_a_frame_that_has_waited_for_too_long_is_dropped_and_said_so(server, monkeypatch):
    with server.connect() as client:
        heard(client)
        monkeypatch.setattr(dialogue, "_FRAME_MAX_AGE_S", -1.0)
        client.send(b"one")
        told = heard(client)
        assert (told["frame"], told["dropped"], told["reasons"]) == (1, True, ["late"])
        monkeypatch.setattr(dialogue, "_FRAME_MAX_AGE_S", 60.0)
        client.send(b"two")
        assert heard(client)["accepted"]


def test_frames_are_looked_at_within_the_reach_of_the_sessions_domain_only(server):
    with server.connect() as client:
        heard(client)
        client.send(b"one")
        heard(client)
        client.send('{"type": "finish"}')
        heard(client)
    assert server.session.reaches == {Reach("somebody", frozenset({"hers"}), frozenset({7}))}


def test_of_the_frames_that_come_meanwhile_only_the_newest_waits_and_the_others_are_dropped(server):
    session = FakeSession(gate=threading.Event())
    with server.connect(session) as client:
        heard(client)
        client.send(b"1")
        assert session.started.wait(60)
        for word in (b"2", b"3", b"4"):
            client.send(word)
        dropped = [heard(client), heard(client)]
        assert dropped == [
            {"type": "frame", "frame": number, "dropped": True, "reasons": ["superseded"]} for number in (2, 3)
        ]
        session.gate.set()
        assert [heard(client)["frame"], heard(client)["frame"]] == [1, 4]
    assert session.seen == [1, 4]
    assert session.most_at_once == 1


def test_sessions_take_turns_and_share_the_threads(server):
    gate = threading.Event()
    sessions = [FakeSession(gate=gate) for _ in range(6)]
    clients = [server.connect(session) for session in sessions]
    for client in clients:
        heard(client)
        client.send(b"first")
        client.send(b"second")
    until = time.monotonic() + 10
    while sum(session.at_once for session in sessions) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert sum(session.at_once for session in sessions) == 2  # as many as there are threads
    gate.set()
    for client, session in zip(clients, sessions, strict=True):
        while heard(client)["frame"] != 2:  # the first one, looked at or dropped
            pass
        assert 2 in session.seen
        client.close()


def test_one_domain_has_half_of_the_threads_and_the_others_come_between(server):
    """Its own frames wait for it: the next domain's are looked at all the same."""
    gate = threading.Event()
    sessions = [FakeSession(gate=gate) for _ in range(6)]
    clients = [server.connect(session) for session in sessions]
    for client in clients:
        heard(client)
        client.send(b"x")
    until = time.monotonic() + 10
    while sum(session.at_once for session in sessions) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    server.domain_id = 8
    try:
        with server.connect() as other:
            heard(other)
            other.send(b"x")
            assert heard(other)["accepted"]
    finally:
        server.domain_id = 7
        gate.set()
        for client in clients:
            client.close()
    assert sum(session.most_at_once for session in sessions) >= 2


def test_of_frames_that_come_much_too_fast_few_are_told_and_the_last_one_is():
    with serving(session_max_fps=20) as slow, slow.connect(FakeSession(gate=threading.Event())) as client:
        heard(client)
        client.send(b"x")
        assert slow.session.started.wait(60)
        for _ in range(79):  # as many as a second may bring
            client.send(b"x")
        slow.session.gate.set()
        answers = [heard(client)]
        while answers[-1]["frame"] != 80:
            answers.append(heard(client))
    told = [answer for answer in answers if answer.get("reasons") == ["rate"]]
    assert 1 <= len(told) < 59


def test_too_many_frames_a_second_are_dropped_and_said_so():
    with serving(session_max_fps=2) as slow, slow.connect() as client:
        heard(client)
        answers = []
        for _ in range(8):
            client.send(b"x")
            answers.append(heard(client))  # nothing waits, so none is superseded
        assert {reason for answer in answers for reason in answer.get("reasons", ["none"])} == {"none", "rate"}
        assert [answer["frame"] for answer in answers] == list(range(1, 9))
        assert len(slow.session.seen) == sum("reasons" not in answer for answer in answers) < 8


@pytest.mark.parametrize("error", [PoolBusy("x"), WorkerTimeout("x"), DatabaseUnavailable("x"), InvalidImage("x")])
def test_a_frame_that_cannot_be_looked_at_is_dropped_and_the_stream_goes_on(server, error):
    with server.connect(FakeSession(raises={b"bad": error})) as client:
        heard(client)
        client.send(b"bad")
        assert heard(client) == {"type": "frame", "frame": 1, "dropped": True, "reasons": [error.code]}
        client.send(b"good")
        assert heard(client)["accepted"]


def test_a_session_that_is_gone_ends_the_stream(server):
    with server.connect(FakeSession(raises={b"x": PersonErased("The person was erased.")})) as client:
        heard(client)
        client.send(b"x")
        told, code, _ = end_of(client)
    assert ([message["code"] for message in told], code) == (["person_erased"], 4004)


def test_an_unexpected_error_is_told_without_a_traceback(server):
    with server.connect(FakeSession(raises={b"x": RuntimeError("secret path")})) as client:
        heard(client)
        client.send(b"x")
        told, code, _ = end_of(client)
    assert ([message["code"] for message in told], code) == (["internal_error"], 1011)
    assert "secret" not in json.dumps(told)
    assert server.session.closed.wait(60)


def test_finish_waits_for_the_frame_before_it_and_takes_no_more(server):
    session = FakeSession(gate=threading.Event())
    with server.connect(session) as client:
        heard(client)
        client.send(b"1")
        assert session.started.wait(60)
        client.send(b"2")
        client.send('{"type": "finish"}')
        client.send(b"3")
        assert heard(client)["reasons"] == ["finished"]
        session.gate.set()
        told, code, _ = end_of(client)
    assert [message["type"] for message in told] == ["frame", "frame", "result"]
    assert (session.seen, code) == ([1, 2], 1000)


def test_a_finish_that_fails_is_told_and_may_be_said_again(server):
    with server.connect(FakeSession(raises={b"finish": DatabaseUnavailable("x")})) as client:
        heard(client)
        client.send('{"type": "finish"}')
        assert heard(client)["code"] == "database_unavailable"
        client.send(b"x")
        assert heard(client)["accepted"]
        client.send('{"type": "finish"}')
        assert heard(client)["result"] == {"decision": "finished"}
        assert end_of(client)[1] == 1000


def test_cancel_looks_at_nothing_more(server):
    session = FakeSession(gate=threading.Event())
    with server.connect(session) as client:
        heard(client)
        client.send(b"1")
        assert session.started.wait(60)
        client.send(b"2")
        client.send('{"type": "cancel"}')
        client.ping().wait(60)  # all before it has been read
        session.gate.set()
        told, code, _ = end_of(client)
    assert told[-1]["result"] == {"decision": "cancelled"}
    assert (session.seen, code) == ([1], 1000)


@pytest.mark.parametrize(
    "text", ["hello", "[]", '{"type": "sing"}', "[" * 4000, '{"type": ["finish"]}', "", "x" * 5000]
)
def test_text_that_is_no_command_is_told_and_after_some_the_stream_is_closed(server, text):
    with server.connect() as client:
        heard(client)
        client.send(text)
        answer = heard(client)
        assert (answer["type"], answer["code"]) == ("error", "invalid_request")
        assert "finish" in answer["detail"] or "binary" in answer["detail"]
        client.send(b"still there")
        assert heard(client)["accepted"]
        for _ in range(4):
            client.send(text)
        told, code, _ = end_of(client)
    assert (len(told), code) == (4, 1008)


def test_text_that_is_not_utf8_closes_the_stream(server):
    with server.connect() as client:
        heard(client)
        with client.protocol_mutex:
            client.protocol.send_text(b"\xff\xfe")
            client.send_data()
        assert end_of(client)[1] == 1007


def test_an_empty_picture_is_none(server):
    with server.connect() as client:
        heard(client)
        client.send(b"")
        assert heard(client)["code"] == "empty_upload"


def test_a_frame_that_is_too_long_closes_the_stream(server):
    with server.connect() as client:
        heard(client)
        client.send(b"x" * (64 * 1024))
        assert heard(client)["bytes"] == 64 * 1024
        client.send(b"x" * (64 * 1024 + 1))
        assert end_of(client)[1] == 1009
    assert server.session.seen == [1]


def test_a_frame_may_come_in_fragments_but_not_be_longer_for_it(server):
    with server.connect() as client:
        heard(client)
        client.send([b"ab", b"", b"cd"])
        assert heard(client)["bytes"] == 4
        with suppress(ConnectionClosed):  # it may be told so in the middle
            client.send([b"x" * 40_000, b"x" * 40_000])
        assert end_of(client)[1] == 1009


def test_silence_closes_the_stream_and_the_session_may_be_resumed():
    with serving(session_idle_s=0.3) as short:
        session = FakeSession()
        with short.connect(session) as client:
            heard(client)
            told, code, _ = end_of(client)
        assert ([message["code"] for message in told], code) == (["silent"], 4002)
        assert session.closed.wait(60)


def test_the_sessions_end_closes_the_stream(server):
    server.remaining_s = 0.3
    try:
        with server.connect() as client:
            heard(client)
            told, code, _ = end_of(client)
    finally:
        server.remaining_s = 60.0
    assert ([message["code"] for message in told], code) == (["session_expired"], 4003)


def test_a_newer_stream_to_the_session_closes_the_older(server):
    session_id = uuid4()
    with server.connect(session_id=session_id) as older:
        heard(older)
        with server.connect(session_id=session_id) as newer:
            heard(newer)
            assert end_of(older)[1] == 4001
            newer.send(b"x")
            assert heard(newer)["accepted"]


def test_a_client_that_goes_while_its_frame_is_looked_at_leaves_nothing_behind(server):
    session = FakeSession(gate=threading.Event())
    client = server.connect(session)
    heard(client)
    client.send(b"x")
    assert session.started.wait(60)
    client.socket.close()
    assert not session.closed.is_set()  # a session is used by one thread at a time
    session.gate.set()
    assert session.closed.wait(60)


def test_pings_are_answered(server):
    with server.connect() as client:
        heard(client)
        assert client.ping(b"are you there").wait(60)


def test_stopping_closes_streams_and_the_client_is_told_that_it_may_come_again():
    with serving() as made:
        with made.connect() as client:
            heard(client)
            made.server.begin_stop()
            assert end_of(client)[1:] == (1012, "service restart")
        assert made.session.closed.wait(60)
        with pytest.raises(StreamsUnavailable):
            made.server.take_place()


def test_stopping_does_not_wait_longer_than_it_may_for_a_frame():
    with serving() as made:
        session = FakeSession(gate=threading.Event())
        client = made.connect(session)
        heard(client)
        client.send(b"x")
        assert session.started.wait(60)
        made.server.stop(0.2)
        assert end_of(client)[1] == 1012
        session.gate.set()


def test_places_are_bounded_and_no_holder_takes_all():
    places = Places(4)
    hers = [uuid4() for _ in range(3)]
    held = [places.take() for _ in range(4)]
    for place, session_id in zip(held, hers, strict=False):
        place.belongs_to("she", session_id)
    with pytest.raises(TooManyStreams):
        held[3].belongs_to("she", uuid4())
    held[3].belongs_to("he", uuid4())
    with pytest.raises(StreamsFull):
        places.take().belongs_to("he", uuid4())
    held[0].release()
    held[0].release()
    again = places.take()
    again.belongs_to("she", uuid4())
    with pytest.raises(StreamsFull):
        places.take().belongs_to("they", uuid4())


def test_whoever_connects_anew_takes_the_place_of_the_connection_before():
    """It may be dead, and nobody has noticed."""
    places, own = Places(1), uuid4()
    dead, again = places.take(), places.take()
    dead.belongs_to("she", own)
    again.belongs_to("she", own)
    dead.release()
    with pytest.raises(StreamsFull):
        places.take().belongs_to("she", uuid4())
    again.release()
    places.take().belongs_to("he", uuid4())


def test_connections_that_have_not_shown_whose_they_are_are_few():
    places = Places(1)
    held = [places.take() for _ in range(9)]
    with pytest.raises(StreamsFull):
        places.take()
    held[0].release()
    places.take()


def test_a_place_is_free_again_after_the_stream():
    with serving(session_max_streams=1) as made:
        for _ in range(3):
            with made.connect() as client:
                heard(client)
            assert made.session.closed.wait(60)
            until = time.monotonic() + 10
            while made.server._places._taken and time.monotonic() < until:
                time.sleep(0.01)
        assert made.refused == []


def test_no_thread_is_made_before_the_first_stream():
    before = set(threading.enumerate())
    with serving() as made:
        made.server.take_place().release()
        assert set(threading.enumerate()) <= before


def test_control_frames_are_no_pictures(server):
    """A pong that nobody has asked for, and a close in the middle of a fragmented message."""
    with server.connect() as client:
        heard(client)
        client.pong(b"unasked")
        client.send(b"x")
        assert heard(client)["frame"] == 1
        with client.protocol_mutex:
            client.protocol.send_binary(b"half", fin=False)
            client.protocol.send_close(1000)
            client.send_data()
        assert end_of(client)[1] in (1002, 1006)
