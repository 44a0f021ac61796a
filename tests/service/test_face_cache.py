"""Extracted faces that a running service keeps: what comes again costs no model call, and nothing depends on it."""

import re
import threading
import time
from pathlib import Path

import httpx
import pytest
from redis import Redis

from app.face_cache import shared
from tests.pictures import filling_portrait, group_photo, portrait
from tests.redis_server import redis_server
from tests.service.running import SMALL, RunningService, eventually, free_port, running_service

pytestmark = pytest.mark.service

_LINE = re.compile(r"^(facedex_face_cache_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_PICTURES = (portrait, group_photo, filling_portrait)


@pytest.fixture(scope="module")
def redis_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def redis_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="module")
def cached(tmp_path_factory, redis_port, redis_folder):
    """A service whose Redis is not there yet."""
    # However busy the machine is: it is Redis that must not fail anybody, and one that answers late is none that is away.
    patient = {"REQUEST_DEADLINE_S": "60", "EMBEDDER_QUEUE_S": "60"}
    url = f"redis://127.0.0.1:{redis_port}/0?socket_timeout=5&socket_connect_timeout=5"
    env = SMALL | {"REDIS_URL": url, "WEB_WORKERS": "2", **patient}
    with running_service(tmp_path_factory.mktemp("cached") / "storage", "--workers", "1", env=env) as running:
        with running.client() as http:
            for domain in ("people", "others"):
                assert http.post("/v1/domains", json={"name": domain}).status_code == 201
            _enrol(http, "astronaut")
        yield running


def _enrol(http: httpx.Client, label: str, domain: str = "people") -> httpx.Response:
    answer = http.post(f"/v1/domains/{domain}/persons/{label}/faces", files={"file": portrait().read_bytes()})
    assert answer.status_code == 201, answer.text
    return answer


def recognize(http: httpx.Client, picture: bytes, domain: str = "people") -> dict:
    answer = http.post("/recognize", data={"domain": domain}, files={"file": picture})
    assert answer.status_code == 200, answer.text
    return answer.json()


def metric(http: httpx.Client, name: str, label: str = "") -> float:
    """A metric of the cache's, summed over all labels but those that are asked for."""
    found = _LINE.findall(http.get("/metrics").text)
    return sum(
        float(value) for full, labels, value in found if full == f"facedex_face_cache_{name}" and label in labels
    )


def hits(http: httpx.Client) -> float:
    return metric(http, "lookups_total", "hit")


def test_no_request_fails_while_redis_is_stopped_and_started_under_load_and_hits_come_back(
    cached: RunningService, redis_port: int, redis_folder: Path
) -> None:
    pictures = [picture().read_bytes() for picture in _PICTURES]
    over = threading.Event()
    answered: list[str | None] = []
    told: list[set[str]] = []

    def ask(number: int) -> None:
        with cached.client() as http:
            while not over.is_set():
                picture = pictures[(number + len(answered)) % len(pictures)]
                answer = http.post("/recognize", data={"domain": "people"}, files={"file": picture})
                body = answer.json()
                answered.append(body.get("code"))
                if picture is pictures[0]:
                    told.append({match["person_name"] for match in body.get("all_detected_matches", ())})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
        with cached.client() as http:
            assert hits(http) == 0
            for _ in range(2):
                before = hits(http)
                with redis_server(redis_folder, redis_port) as process:
                    eventually(lambda before=before: hits(http) > before + 20)
                    unavailable = metric(http, "lookups_total", "unavailable")
                    process.kill()
                    process.wait()
                eventually(lambda known=unavailable: metric(http, "lookups_total", "unavailable") > known + 5)
                assert metric(http, "errors_total") > 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(answered) == {None}
    assert {frozenset(names) for names in told} == {frozenset({"astronaut"})}


def test_a_picture_that_comes_again_asks_no_worker_whichever_process_gets_it_and_each_domain_asks_for_itself(
    cached: RunningService, redis_port: int, redis_folder: Path
) -> None:
    picture = group_photo().read_bytes()
    with cached.client() as http, redis_server(redis_folder, redis_port):

        def asked() -> list[dict]:
            answers = []
            for _ in range(10):
                with cached.client() as other:  # a connection each: either process may get it
                    answers.append(recognize(other, picture))
            return answers

        time.sleep(shared.RETRY_AFTER_S)  # after which each process, whichever the kernel chooses, asks Redis again
        eventually(lambda: all("cache" in answer["timings_ms"] for answer in asked()))
        cached.wait_until_idle()
        before = jobs(http)
        answers = asked()
        cached.wait_until_idle()
        assert jobs(http) == before
        assert {tuple(face["box"].values()) for face in answers[0]["faces"]} == {
            tuple(face["box"].values()) for answer in answers for face in answer["faces"]
        }
        assert "cache" not in recognize(http, picture, "others")["timings_ms"]
        cached.wait_until_idle()
        assert jobs(http) == before + 1
        assert metric(http, "redis_entries") >= 2


def jobs(http: httpx.Client) -> float:
    """How many jobs the pool's workers have done."""
    found = re.findall(r"^facedex_pool_jobs_total\{.*\} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def test_an_erasure_waits_for_redis_and_leaves_nothing_there(
    cached: RunningService, redis_port: int, redis_folder: Path
) -> None:
    picture = filling_portrait().read_bytes()
    with cached.client() as http:
        _enrol(http, "erased", "others")
        with redis_server(redis_folder, redis_port) as process, Redis(port=redis_port) as redis:
            eventually(lambda: "cache" in recognize(http, picture, "others")["timings_ms"])
            uid = next(item["id"] for item in http.get("/v1/domains").json()["items"] if item["name"] == "others")
            theirs = f"facedex:{{faces}}:{uid}:*"
            assert list(redis.scan_iter(theirs))
            process.suspend()
            receipt = http.delete("/v1/domains/others/persons/erased").json()
            process.resume()
            assert (receipt["state"], [entry["place"] for entry in receipt["unfinished"]]) == (
                "unfinished",
                ["face_cache"],
            )
            assert "cache" not in recognize(http, picture, "others")["timings_ms"]  # of no use to anybody from now on
            cached.flask("erase", "--finish")
            assert not list(redis.scan_iter(theirs))
            eventually(lambda: "cache" in recognize(http, picture, "others")["timings_ms"])


def test_without_redis_each_process_remembers_and_an_erasure_reaches_all_within_seconds(
    service: RunningService,
) -> None:
    """`service` is the shared one: this leaves it as it found it."""
    picture = group_photo().read_bytes()
    with service.client() as http:
        domain = f"cache-{time.time_ns()}"
        assert http.post("/v1/domains", json={"name": domain}).status_code == 201
        _enrol(http, "erased", domain)
        eventually(lambda: "cache" in recognize(http, picture, domain)["timings_ms"])
        assert metric(http, "entries") > 0
        receipt = http.delete(f"/v1/domains/{domain}/persons/erased").json()
        assert receipt["state"] == "finished"
        assert "face_cache" in {entry["place"] for entry in receipt["remains"]}
        # Of the domain nothing else is asked: it is forgotten all the same.
        eventually(lambda: metric(http, "entries") == 0, within_s=30)
        assert http.delete(f"/v1/domains/{domain}").status_code == 200
