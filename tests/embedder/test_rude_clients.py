"""What the pool makes of clients that do not keep to the protocol, or break off: nothing that others would notice."""

import json
import math
import resource
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager

import pytest

from app.deadline import Deadline
from app.embedder.framing import encode, receive
from app.embedder.job import Job
from app.errors import ImageQuarantined, InvalidImage, InvalidRequest, PoolBusy
from tests.embedder.pools import CLIENTS, Crowd, at_once, faces, held_up, is_same, running_pool, sha256, stopped
from tests.service.running import eventually

pytestmark = pytest.mark.slow

POISON, *HARMLESS = faces(9)
QUEUE = 16


@pytest.fixture(scope="module")
def pool(tmp_path_factory, models):
    storage = tmp_path_factory.mktemp("rude") / "pool"
    with running_pool(
        storage, models, faults={POISON: "segfault"}, embedder_workers=2, embedder_queue=QUEUE
    ) as running:
        yield running


@pytest.fixture(scope="module")
def right(pool):
    return [pool.analyze(image) for image in HARMLESS]


@pytest.fixture
def unharmed(pool, right):
    """Others are served all the while, by the same processes as before."""
    before = [process.pid for process in pool.family()]
    with Crowd(pool, HARMLESS) as crowd:
        yield
        crowd.wait_for_more(CLIENTS)
    assert crowd.wrong(right) == []
    assert [process.pid for process in pool.family()] == before


@contextmanager
def dialled(pool):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(pool.socket))
        yield connection


def job(image: bytes, *, deadline_s: float = 30, client: str = "rude") -> dict:
    deadline = Deadline.after(deadline_s)
    return Job(sha256(image), len(image), deadline, "all", "", client, "", again=False).to_message()


def framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the other side closes the connection without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # not all that was sent had been read
        return True


NO_MESSAGES = [
    b"",
    b"\x00",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    framed(b"x"),
    framed(b"[]"),
    framed(b"[" * 16_000),
    framed(b'{"op": ' + b"9" * 10_000 + b"}"),
    framed(b'{"op": "status"}')[:-1],
    encode({"op": "analyze"})[:9],
]
NO_OPERATIONS = [{"op": None}, {"op": ["status"]}, {"op": "stop"}, {"op": "analyze"}]
# What is wrong about a job that is right otherwise.
NO_JOBS = [
    {"sha256": "x" * 64},
    {"sha256": ["0" * 64]},
    {"bytes": -1},
    {"bytes": "many"},
    {"bytes": math.inf},
    {"bytes": 10**18},
    {"embed": {"all": 1}},
    {"model": "\ud800"},
    {"deadline_s": None},
    {"deadline_s": 1e308},
    {"deadline_s": math.inf},
]
STRANGE_DIGESTS = [["0" * 64], {}, 5, "\ud800", "'; DROP TABLE strikes; --"]


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("said", NO_MESSAGES)
def test_what_is_no_message_gets_no_answer(pool, said):
    with dialled(pool) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        assert is_hung_up(connection)


@pytest.mark.usefixtures("unharmed")
def test_what_is_no_job_is_a_typed_error(pool):
    for said in [*NO_OPERATIONS, *(job(HARMLESS[0]) | wrong for wrong in NO_JOBS)]:
        with dialled(pool) as connection:
            connection.sendall(framed(json.dumps(said).encode()))
            answer, _ = receive(connection)
        assert answer["error"] in ("invalid_request", "upload_too_large", "unknown_model"), said


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("digest", STRANGE_DIGESTS)
def test_a_strange_digest_is_a_typed_error(pool, digest):
    with pytest.raises(InvalidRequest):
        pool.client.clear_quarantine(digest)


@pytest.mark.usefixtures("unharmed")
def test_an_empty_picture_is_none(pool):
    with dialled(pool) as connection:
        connection.sendall(encode(job(b"")))
        assert receive(connection)[0]["error"] == "invalid_image"
    assert isinstance(pool.analyze(b""), InvalidImage)


@pytest.mark.usefixtures("unharmed")
def test_who_never_finishes_a_sentence_is_not_waited_for(pool):
    with dialled(pool) as half, dialled(pool) as silent:
        half.sendall(encode(job(HARMLESS[0]))[:20])
        assert is_hung_up(half)
        assert is_hung_up(silent)


@pytest.mark.usefixtures("unharmed")
def test_who_breaks_off_in_the_middle_of_the_picture_costs_nothing(pool):
    before = pool.jobs().get("abandoned", 0)
    for sent in (0, 1, len(HARMLESS[0]) - 1):
        with dialled(pool) as connection:
            connection.sendall(encode(job(HARMLESS[0])))
            assert receive(connection)[0] == {"go": True}
            connection.sendall(HARMLESS[0][:sent])
    eventually(lambda: pool.jobs().get("abandoned", 0) == before + 3)


@pytest.mark.usefixtures("unharmed")
def test_who_sends_the_picture_by_drops_is_given_up_at_the_deadline(pool):
    with dialled(pool) as connection:
        connection.sendall(encode(job(HARMLESS[0], deadline_s=2)))
        assert receive(connection)[0] == {"go": True}
        given_up = threading.Event()

        def drip() -> None:
            try:
                for byte in HARMLESS[0]:
                    connection.sendall(bytes([byte]))
                    if given_up.wait(0.2):
                        return
            except OSError:
                return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert is_hung_up(connection)
        finally:
            given_up.set()
            dripping.join()


@pytest.mark.usefixtures("unharmed")
def test_who_does_not_take_the_answer_costs_nothing(pool):
    with dialled(pool) as connection:
        connection.sendall(encode(job(HARMLESS[0])))
        receive(connection)
        connection.sendall(HARMLESS[0])
        connection.shutdown(socket.SHUT_RD)


def waiting(pool, stack: ExitStack, which: int, client: str) -> socket.socket:
    """A connection whose job is sent, and nothing else yet."""
    connection = stack.enter_context(dialled(pool))
    connection.sendall(encode(job(HARMLESS[which % len(HARMLESS)], client=client)))
    return connection


def test_who_leaves_the_queue_frees_a_place(pool):
    before = pool.jobs().get("abandoned", 0)
    with held_up(pool):
        with ExitStack() as stack:
            for number in range(pool.size + QUEUE):
                waiting(pool, stack, number, "rude")
            eventually(lambda: pool.queue_length() == QUEUE)
            assert isinstance(pool.analyze(HARMLESS[0], client="rude"), PoolBusy)
        eventually(lambda: pool.queue_length() == 0)
        assert pool.jobs()["abandoned"] == before + QUEUE
    eventually(lambda: pool.jobs()["abandoned"] == before + QUEUE + pool.size)


def test_who_leaves_while_another_takes_their_place_is_nobodys_loss(pool, right):
    """The pool learns of both at the same moment."""
    with held_up(pool), ExitStack() as stack:
        greedy = [waiting(pool, stack, number, "greedy") for number in range(pool.size + QUEUE)]
        eventually(lambda: pool.queue_length() == QUEUE)
        with stopped([pool.process.pid]):
            for number in range(4):  # each takes the place of the newest of the greedy one's
                waiting(pool, stack, number, f"modest {number}")
            for connection in greedy[pool.size :]:
                connection.close()
        eventually(lambda: pool.queue_length() == 4)
    assert is_same(pool.analyze(HARMLESS[0]), right[0])


def test_who_breaks_off_does_not_clear_a_picture_of_what_it_has_done(pool):
    before = pool.deaths().get("sigsegv", 0)
    with dialled(pool) as connection:
        connection.sendall(encode(job(POISON)))
        receive(connection)
        connection.sendall(POISON)
        assert is_hung_up(connection)
    eventually(lambda: pool.deaths().get("sigsegv", 0) == before + 1)
    abandoned = pool.jobs().get("abandoned", 0)
    with dialled(pool) as connection:
        connection.sendall(encode(job(POISON)))
        receive(connection)
    eventually(lambda: pool.jobs().get("abandoned", 0) == abandoned + 1)
    answers = at_once(*[lambda: pool.analyze(POISON)] * CLIENTS)
    assert {type(answer) for answer in answers} == {ImageQuarantined}
    assert pool.deaths()["sigsegv"] == before + 2
    assert pool.client.clear_quarantine() == 1
    pool.wait_until_whole()


def test_more_connections_than_the_pool_can_have_open_pass_by(tmp_path, models):
    with running_pool(tmp_path / "pool", models, embedder_workers=2) as pool:
        expected = [pool.analyze(image) for image in HARMLESS]
        resource.prlimit(pool.process.pid, resource.RLIMIT_NOFILE, (40, 40))
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(dialled(pool))
            # Whoever comes now waits until the silent ones are given up, and a worker cannot be replaced before.
            pool.end(pool.family()[1].pid)
            answers = at_once(*[lambda which=which: pool.analyze(HARMLESS[which]) for which in range(CLIENTS)])
        assert [is_same(answer, right) for answer, right in zip(answers, expected, strict=True)] == [True] * CLIENTS
        pool.wait_until_whole()
