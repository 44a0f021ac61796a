"""Damaged pictures through everything that takes pictures: answers, and not one worker lost.

The suite sends a share of the thousand. All of them:

    FACEDEX_TEST_MUTANTS=1000 scripts/test tests/service/test_mutated_pictures.py
"""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from app.embedder.client import EmbedderClient
from tests import pictures
from tests.mutations import Mutant, mutants
from tests.service.jobs_support import ended
from tests.service.running import RunningService, eventually

pytestmark = [pytest.mark.service, pytest.mark.slow]

# Each kind of damage to each kind of file is among them, and each endpoint gets every kind of damage.
MUTANTS = int(os.environ.get("FACEDEX_TEST_MUTANTS", "400"))
_CLIENTS = 8
_DOMAIN = "mutants"
_PERSONS = f"/v1/domains/{_DOMAIN}/persons"


def as_form(path: str, **fields: str) -> Callable[[httpx.Client, Mutant], httpx.Response]:
    """How a picture is sent there."""
    return lambda http, mutant: http.post(path, data=fields, files={"file": (mutant.name, mutant.data)})


def as_registration(http: httpx.Client, mutant: Mutant) -> httpx.Response:
    """A person of their own: of one, no thousand photos are kept."""
    label = f"{mutant.name} {mutant.mutation} {uuid4()}"[:200]
    return http.post(_PERSONS, data={"label": label}, files={"file": (mutant.name, mutant.data)})


def as_old_photo(http: httpx.Client, mutant: Mutant) -> httpx.Response:
    """Of somebody who is there."""
    label = str(uuid4())
    http.post(_PERSONS, json={"label": label}).raise_for_status()
    return http.post(f"{_PERSONS}/{label}/reference-photos", files={"file": (mutant.name, mutant.data)})


def as_pair(http: httpx.Client, mutant: Mutant) -> httpx.Response:
    """Beside a picture that nothing is wrong with."""
    sound = ("sound.jpg", pictures.portrait().read_bytes())
    return http.post("/v1/verify", files={"file1": (mutant.name, mutant.data), "file2": sound})


def as_import(http: httpx.Client, mutant: Mutant) -> httpx.Response:
    """As a bulk enrolment of one file, which is waited for."""
    files = {"file": (f"somebody/{mutant.name}", mutant.data)}
    answer = http.post(f"/v1/domains/{_DOMAIN}/imports", files=files)
    if answer.is_success:
        assert ended(http, answer.json()["id"])["state"] == "succeeded"
    return answer


# Everything that takes pictures, by its name in the API's description.
ENDPOINTS = {
    "/recognize": as_form("/recognize", domain=_DOMAIN),
    "/v1/domains/{domain}/persons": as_registration,
    "/v1/domains/{domain}/persons/{label}/reference-photos": as_old_photo,
    "/v1/domains/{domain}/persons/{label}/faces": as_form(f"/v1/domains/{_DOMAIN}/persons/somebody/faces"),
    "/v1/domains/{domain}/persons/{label}/rejections": as_form(f"/v1/domains/{_DOMAIN}/persons/other/rejections"),
    "/v1/domains/{domain}/imports": as_import,
    "/v1/detect": as_form("/v1/detect"),
    "/v1/embeddings": as_form("/v1/embeddings"),
    "/v1/embeddings/batch": as_form("/v1/embeddings/batch"),
    "/v1/domains/{domain}/persons/{label}/verify": as_form(f"/v1/domains/{_DOMAIN}/persons/other/verify"),
    "/v1/verify": as_pair,
}


@pytest.fixture(scope="module")
def pool(service: RunningService) -> EmbedderClient:
    return EmbedderClient(f"unix:{service.storage}/run/embedder.sock")


@pytest.fixture(autouse=True, scope="module")
def _domain(service: RunningService):
    with service.client() as http:
        http.post("/v1/domains", json={"name": _DOMAIN}).raise_for_status()
        http.post(f"/v1/domains/{_DOMAIN}/persons", json={"label": "other"}).raise_for_status()
        yield
        http.delete(f"/v1/domains/{_DOMAIN}").raise_for_status()


def test_nothing_that_takes_pictures_is_left_out(http):
    described = http.get("/openapi.json").json()["paths"]
    with_picture = {
        path
        for path, operations in described.items()
        if "multipart/form-data" in operations.get("post", {}).get("requestBody", {}).get("content", {})
    }
    assert with_picture == set(ENDPOINTS)


def test_damaged_pictures_are_answered_and_cost_no_worker(service, pool):
    before = [worker.pid for worker in pool.status().workers]
    sends = list(ENDPOINTS.values())
    damaged = mutants(MUTANTS, seed=4)

    def send(http: httpx.Client, which: int) -> httpx.Response:
        while True:
            answer = sends[which % len(sends)](http, damaged[which])
            if answer.status_code != 503 or answer.json()["code"] != "pool_busy":
                return answer

    def client(number: int) -> list[tuple[Mutant, httpx.Response]]:
        with service.client() as http:
            return [(damaged[which], send(http, which)) for which in range(number, len(damaged), _CLIENTS)]

    with ThreadPoolExecutor(_CLIENTS) as threads:
        answers = [answer for answers in threads.map(client, range(_CLIENTS)) for answer in answers]
    wrong = [
        (mutant.name, mutant.mutation, answer.status_code, answer.text)
        for mutant, answer in answers
        if not (answer.is_success or (answer.is_client_error and answer.json()["code"] != "image_quarantined"))
    ]
    assert wrong == []
    counted = Counter(answer.is_success for _, answer in answers)
    assert counted[True] + counted[False] == len(damaged)
    assert min(counted[True], counted[False]) > len(damaged) // 10  # damage of both kinds was among them
    with service.client() as http:  # what waits is looked at in the background, with more effort
        eventually(lambda: not _photos(http)["waiting"], within_s=240)
        eventually(lambda: all(worker.state == "idle" for worker in pool.status().workers))
        found = _photos(http)
    assert min(found["extracted"], found["failed"]) > 0
    status = pool.status()
    assert [worker.pid for worker in status.workers] == before
    assert status.quarantined == 0


def _photos(http: httpx.Client) -> dict[str, int]:
    return http.get(f"/v1/domains/{_DOMAIN}").raise_for_status().json()["reference_photos"]
