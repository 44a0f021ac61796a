"""Sessions over the WebSocket of the whole service, as its users meet it."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote
from uuid import uuid4

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from scripts.session_client import Session, SessionClient, SessionFailed, Stream, run, stream_address
from tests import pictures
from tests.mutations import mutants
from tests.service.running import ROOT, RunningService, eventually, running_service

pytestmark = pytest.mark.service

DOMAIN = "Škoda streams"
THREADS = 4


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[RunningService]:
    """A service of these tests' own: with few threads, which streams must not hold."""
    env = {
        "AUTH_FAILURES_PER_MINUTE": "100000",
        "JOBS_WORKERS": "0",
        "WEB_WORKERS": "1",
        "WEB_THREADS": str(THREADS),
        "SESSION_MAX_FPS": "1000",
        "ALLOWED_ORIGINS": "https://shop.example.com",
    }
    with running_service(tmp_path_factory.mktemp("streams") / "storage", env=env) as running:
        with running.client() as http:
            http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status()
            http.post("/v1/domains", json={"name": "others"}).raise_for_status()
        yield running


def make_session(service: RunningService, person: str, kind: str = "enrol", **limits: float) -> Session:
    return SessionClient(service.url, service.key).create(DOMAIN, person, kind, **limits)


def opened(session: Session, **headers: str) -> ClientConnection:
    given = {"Authorization": f"Bearer {session.token}"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    return connect(session.stream, additional_headers=given, compression=None, legacy=True, open_timeout=60)


def refused(session: Session, **options) -> tuple[int, str]:
    """Status and code of a handshake that fails."""
    with pytest.raises(InvalidStatus) as caught:
        connect(session.stream, compression=None, legacy=True, **options)
    response = caught.value.response
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem = json.loads(response.body)
    assert problem["status"] == response.status_code
    return response.status_code, problem["code"]


def bearer(token: str) -> dict:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def heard(client: ClientConnection) -> dict:
    return json.loads(client.recv(timeout=30))


def close_code(client: ClientConnection) -> int:
    try:
        while True:
            client.recv(timeout=30)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


def test_a_person_is_enrolled_from_frames_and_verified_from_others_and_somebody_else_is_not(service):
    faces = pictures.lfw10()
    (name, photos), (_, others) = list(faces.items())[:2]
    answers = []
    enrolled = run(make_session(service, name), [path.read_bytes() for path in photos[:7]], answers.append)
    assert (enrolled["outcome"], enrolled["new_person"]) == ("enrolled", True)
    assert answers[0]["type"] == "ready"
    frames = [answer for answer in answers if answer["type"] == "frame"]
    assert [frame["frame"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[0]["face"]["box"]["w"] > 0
    same = run(make_session(service, name, "verify"), [path.read_bytes() for path in photos[7:]])
    another = run(make_session(service, name, "verify"), [path.read_bytes() for path in others[7:]])
    assert (same["outcome"], another["outcome"]) == ("verified", "not_verified")


def test_the_command_line_enrols_a_folder_and_says_by_its_exit_code_how_it_went(service, tmp_path):
    (name, photos), (_, others) = list(pictures.lfw10().items())[2:4]
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos[:7]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    script = [sys.executable, str(ROOT / "scripts/session_client.py"), "--url", service.url, "--domain", DOMAIN]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"FACEDEX_KEY": service.key, "PATH": ""}
        return subprocess.run(
            [*script, "--person", name, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )

    enrolled = call("enrol", str(folder))
    assert enrolled.returncode == 0, enrolled.stderr
    lines = [json.loads(line) for line in enrolled.stdout.splitlines()]
    assert (lines[0]["type"], lines[-1]["result"]["outcome"]) == ("ready", "enrolled")
    assert call("verify", *map(str, photos[7:])).returncode == 0
    assert call("verify", str(photos[0])).returncode == 0  # a single photo
    assert call("verify", *map(str, others[7:])).returncode == 1
    unknown = call("--domain", "nobody's", "verify", str(photos[0]))
    assert unknown.returncode == 2
    assert "Traceback" not in unknown.stderr


def test_open_streams_hold_no_thread_of_the_web(service, http_of):
    """Many more streams than threads, and requests are answered as before."""
    streams = [opened(make_session(service, f"many {number}")) for number in range(THREADS * 3)]
    assert all(heard(stream)["type"] == "ready" for stream in streams)
    answers = [http_of.get("/v1/domains") for _ in range(THREADS * 3)]
    assert {answer.status_code for answer in answers} == {200}
    assert metric(http_of, "facedex_streams_open") == len(streams)
    for stream in streams:
        stream.close()
    eventually(lambda: metric(http_of, "facedex_streams_open") == 0)


@pytest.fixture
def http_of(service):
    with service.client() as http:
        yield http


def metric(http: httpx.Client, name: str) -> float:
    found = re.findall(rf"^{re.escape(name)} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return float(found[0]) if found else 0.0


def test_a_handshake_without_the_token_or_with_a_wrong_one_is_refused(service):
    session, other = make_session(service, "token"), make_session(service, "other")
    assert refused(session) == (401, "unauthenticated")
    assert refused(session, **bearer("")) == (401, "unauthenticated")
    assert refused(session, **bearer("fds_wrong")) == refused(session, **bearer(other.token))
    assert refused(session, **bearer(service.key))[1] == "wrong_session_token"  # an API key is no token
    nobody = Session("", session.token, stream_address(service.url, str(uuid4())))
    assert refused(nobody, **bearer(session.token))[0] == 404
    assert refused(Session("", "", stream_address(service.url, "no-id")), **bearer("x"))[0] == 404


def test_a_key_that_is_shown_has_to_be_the_one_that_made_the_session(service, http_of):
    wanted = {"name": "other", "scopes": ["enrol"], "domains": [DOMAIN]}
    other = http_of.post("/v1/keys", json=wanted).raise_for_status().json()["key"]
    session = make_session(service, "keys")
    headers = {"Authorization": f"Bearer {session.token}"}
    assert refused(session, additional_headers=headers | {"x-api-key": other})[0] == 403
    assert refused(session, additional_headers=headers | {"x-api-key": "fdx_no_such_key"}) == (401, "unauthenticated")
    with opened(session, x_api_key=service.key) as client:
        assert heard(client)["type"] == "ready"


def test_a_browser_offers_the_token_as_a_subprotocol_and_never_hears_it_again(service):
    session = make_session(service, "browser")
    client = connect(
        session.stream,
        subprotocols=["facedex.v1", f"facedex.token.{session.token}"],
        origin="https://shop.example.com",
        compression=None,
        legacy=True,
    )
    with client:
        assert client.subprotocol == "facedex.v1"
        assert session.token not in str(client.response.headers)
        assert heard(client)["type"] == "ready"
    assert refused(session, subprotocols=[f"facedex.token.{session.token}"]) == (400, "invalid_request")
    logs = "".join(path.read_text() for path in service.storage.glob("logs/*.log"))
    assert session.token not in logs


def test_pages_of_other_origins_are_refused(service):
    session = make_session(service, "origin")
    assert refused(session, origin="https://evil.example.com", **bearer(session.token)) == (403, "origin_not_allowed")
    assert refused(session, origin="null", **bearer(session.token)) == (403, "origin_not_allowed")
    for origin in (service.url, "https://shop.example.com"):
        with connect(session.stream, origin=origin, compression=None, legacy=True, **bearer(session.token)) as client:
            assert heard(client)["type"] == "ready"


def test_a_request_that_is_no_websocket_is_told_so(service, http_of):
    session = make_session(service, "http")
    path = f"/v1/sessions/{session.id}/stream"
    token = {"Authorization": f"Bearer {session.token}"}
    plain = httpx.get(service.url + path, headers=token, timeout=60)
    assert (plain.status_code, plain.json()["code"], plain.headers["upgrade"]) == (426, "upgrade_required", "websocket")
    upgrade = token | {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert httpx.get(service.url + path, headers=upgrade, timeout=60).status_code == 400
    assert httpx.get(service.url + path, timeout=60).status_code == 401
    assert httpx.head(service.url + path, headers=upgrade, timeout=60).status_code == 426


def test_a_session_is_gone_on_with_after_a_lost_connection_and_the_newest_stream_has_it(service):
    photos = [path.read_bytes() for path in list(pictures.lfw10().values())[4][:7]]
    session = make_session(service, "resumed", templates=3)
    with opened(session) as first:
        heard(first)
        first.send(photos[0])
        assert heard(first)["progress"]["templates"] == 1
        with opened(session) as second:
            assert heard(second)["progress"]["templates"] == 1
            assert close_code(first) == 4001
            second.socket.shutdown(socket.SHUT_RDWR)  # without a goodbye
    assert run(session, photos[1:])["outcome"] == "enrolled"
    assert refused(session, **bearer(session.token)) == (409, "session_ended")


def test_an_expired_session_ends_its_stream_and_is_opened_no_more(service):
    session = make_session(service, "late", expires_in_s=5)
    with opened(session) as client:
        heard(client)
        assert heard(client)["code"] == "session_expired"
        assert close_code(client) == 4003
    assert refused(session, **bearer(session.token)) == (410, "session_expired")


def test_what_is_no_picture_is_answered_and_a_cancelled_session_is_over(service):
    session = make_session(service, "noise")
    with opened(session) as client:
        heard(client)
        client.send(b"no picture")
        assert heard(client)["reasons"] == ["unreadable"]
        client.send(pictures.faceless())
        assert heard(client)["reasons"] == ["no_face"]
        client.send("hello")
        assert heard(client)["code"] == "invalid_request"
        client.send('{"type": "cancel"}')
        assert heard(client)["result"]["outcome"] == "cancelled"
        assert close_code(client) == 1000
    assert refused(session, **bearer(session.token)) == (409, "session_ended")
    with Stream(session) as stream:  # the client asks how it has ended
        assert stream.show(b"x")["result"]["outcome"] == "cancelled"
    with pytest.raises(SessionFailed, match="404"):
        SessionClient(service.url, service.key).read(str(uuid4()))


def test_fifty_megabytes_are_refused_and_the_session_goes_on(service):
    session = make_session(service, "huge")
    with opened(session) as client:
        heard(client)
        with suppress(ConnectionClosed):
            client.send(b"x" * (50 * 2**20))
        assert close_code(client) == 1009
    # Until the server has taken note of the end, frames are set aside for the connection.
    with service.client() as http:
        eventually(lambda: http.get(f"/v1/sessions/{session.id}").json()["frames"] == 0)
    with opened(session) as client:
        assert heard(client)["frames"] == 0


def test_damaged_pictures_are_answered_one_by_one_and_cost_no_worker(service):
    before = {worker.pid for worker in service.embedder().status().workers}
    damaged = mutants(100, seed=6)
    answers = []
    with Stream(
        make_session(service, "damaged", max_frames=120, templates=10, min_templates=1), answers.append
    ) as stream:
        for mutant in damaged:
            if stream.show(mutant.data or b"\0").get("result"):
                break
        assert {worker.pid for worker in service.embedder().status().workers} == before
    # One that a busy machine has not come to in time is sent again.
    told = [answer for answer in answers if answer["type"] == "frame"]
    frames = [frame for frame in told if not frame["dropped"]]
    assert len(frames) == len(damaged)
    assert {reason for frame in told if frame["dropped"] for reason in frame["reasons"]} <= {"late", "worker_timeout"}
    assert "unreadable" in {reason for frame in frames for reason in frame["reasons"]}


def test_erasing_the_person_ends_the_stream(service, http_of):
    name, photos = list(pictures.lfw10().items())[5]
    run(make_session(service, name), [path.read_bytes() for path in photos[:7]])
    with opened(make_session(service, name, "verify")) as client:
        heard(client)
        http_of.delete(f"/v1/domains/{quote(DOMAIN)}/persons/{name}").raise_for_status()
        client.send(photos[8].read_bytes())
        assert heard(client)["code"] == "session_not_found"
        assert close_code(client) == 4004


def test_a_reload_closes_streams_which_go_on_in_the_new_process(service):
    photos = [path.read_bytes() for path in list(pictures.lfw10().values())[6][:7]]
    session = make_session(service, "reloaded", templates=3)
    _, (old,) = service.web()
    with Stream(session) as stream:
        assert stream.show(photos[0])["progress"]["templates"] == 1
        service.process.send_signal(signal.SIGHUP)
        gone, _ = psutil.wait_procs([old], timeout=60)
        assert gone == [old]
        result = None
        for photo in photos[1:]:
            result = stream.show(photo).get("result")
            if result:
                break
    assert (result or {}).get("outcome") == "enrolled"


@contextmanager
def busy(service: RunningService, streams: int) -> Iterator[list[dict]]:
    """So many sessions, each of which sends its person's photo again and again and reads the answers as they come."""
    photo, answers, stop = pictures.portrait().read_bytes(), list[dict](), threading.Event()

    def stream(number: int) -> None:
        with opened(make_session(service, f"busy {number}")) as client:
            heard(client)
            while not stop.is_set():
                until = time.monotonic() + 0.2
                try:
                    client.send(photo)
                    while (left := until - time.monotonic()) > 0:
                        answers.append(json.loads(client.recv(timeout=left)))
                except TimeoutError:
                    continue
                except ConnectionClosed:
                    return

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_sessions_shed_frames_so_that_no_recognition_fails(service, http_of):
    statuses: list[int] = []

    def recognise() -> None:
        with service.client() as http:
            for _ in range(15):
                files = {"file": pictures.portrait().read_bytes()}
                statuses.append(http.post("/recognize", data={"domain": "others"}, files=files).status_code)

    with busy(service, 20) as answers:
        eventually(lambda: any(answer.get("dropped") for answer in answers))
        clients = [threading.Thread(target=recognise) for _ in range(2)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
    assert statuses == [200] * 30
    dropped = [answer for answer in answers if answer.get("dropped")]
    looked_at = [answer for answer in answers if answer["type"] == "frame" and not answer["dropped"]]
    assert dropped
    assert looked_at
    assert {reason for answer in dropped for reason in answer["reasons"]} <= {
        "superseded", "late", "pool_busy", "worker_timeout"
    }  # fmt: skip
    found = http_of.get("/metrics").text
    assert 'facedex_stream_frames_total{outcome="dropped_superseded"}' in found
    assert "facedex_stream_frame_seconds_count" in found
