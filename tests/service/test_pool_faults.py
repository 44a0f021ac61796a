"""What clients of the service are told of faults in its worker pool. The pool is the test's own, so that it can have them."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.embedder.pools import CLIENTS, RunningPool, at_once, faces, running_pool
from tests.service.running import SMALL, RunningService, eventually

pytestmark = [pytest.mark.service, pytest.mark.slow]

POISON, HANGING, *HARMLESS = faces(10)
FAULTS = {POISON: "segfault", HANGING: "hang"}
_DEADLINE_S = 20
_DOMAIN = "faults"


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("faults") / "pool"


@pytest.fixture(scope="module")
def web(tmp_path_factory, models, storage):
    """A service that asks a pool elsewhere."""
    with running_pool(storage, models) as pool:
        env = SMALL | {
            "EMBEDDER_URL": pool.settings.embedder_address,
            "REQUEST_DEADLINE_S": str(_DEADLINE_S),
            "FACE_CACHE_TTL_S": "0",  # each request is to meet the pool
        }
        service = RunningService(tmp_path_factory.mktemp("web") / "storage", env=env)
        try:
            service.start()
            with service.client() as http:
                http.post("/v1/domains", json={"name": _DOMAIN}).raise_for_status()
        except BaseException:
            service.kill()
            raise
    try:
        yield service
        assert service.stop() == 0
    finally:
        service.kill()


def recognise(web: RunningService, image: bytes) -> httpx.Response:
    with web.client() as http:
        return http.post("/recognize", data={"domain": _DOMAIN}, files={"file": image})


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def is_ready(web: RunningService) -> bool:
    return httpx.get(web.url + "/readyz", timeout=60).status_code == 200


def test_a_poison_picture_is_unprocessable_and_others_are_answered(web, storage, models):
    with running_pool(storage, models, faults=FAULTS, embedder_workers=3) as pool:
        for _ in range(2):
            answers = at_once(
                *[lambda: recognise(web, POISON)] * CLIENTS,
                *[lambda image=image: recognise(web, image) for image in HARMLESS],
            )
            assert {told(answer) for answer in answers[:CLIENTS]} == {(422, "image_quarantined")}
            assert {told(answer) for answer in answers[CLIENTS:]} == {(200, None)}
            pool.wait_until_whole()
        eventually(lambda: pool.deaths() == {"sigsegv": 2})


def test_a_hang_is_a_timeout_at_the_deadline_and_others_are_answered(web, storage, models):
    with running_pool(storage, models, faults=FAULTS, embedder_workers=3) as pool:
        hanging, *others = at_once(
            lambda: recognise(web, HANGING), *[lambda image=image: recognise(web, image) for image in HARMLESS]
        )
        assert told(hanging) == (504, "worker_timeout")
        assert hanging.elapsed.total_seconds() >= _DEADLINE_S
        assert {told(answer) for answer in others} == {(200, None)}
        eventually(lambda: pool.deaths() == {"hang": 1})
        pool.wait_until_whole()


def test_a_damaged_model_leaves_the_service_alive_until_it_is_mended(web, storage, models):
    pool = RunningPool(storage, models, embedder_workers=2)
    manifest = pool.settings.models_dir / "dlib/manifest.json"
    kept = manifest.rename(manifest.with_suffix(".kept"))
    manifest.write_text("{")
    try:
        # A pool that has never loaded a model is one that has lost it.
        pool.launch()
        eventually(lambda: "manifest" in str(httpx.get(web.url + "/readyz", timeout=60).json()["reasons"]))
        assert not is_ready(web)
        assert httpx.get(web.url + "/healthz").status_code == 200
        answers = at_once(*[lambda: recognise(web, HARMLESS[0])] * CLIENTS)
        assert {told(answer) for answer in answers} == {(503, "model_unavailable")}
        assert all("Retry-After" in answer.headers for answer in answers)
        with web.client() as http:
            assert http.get("/v1/domains").status_code == 200
        kept.rename(manifest)
        eventually(lambda: is_ready(web))
        assert told(recognise(web, HARMLESS[0])) == (200, None)
        assert pool.stop() == 0
    finally:
        pool.kill()


def test_twice_the_load_is_answered_or_told_that_it_is_too_much(web, storage, models):
    """Requests come at their own pace, whether or not earlier ones have been answered."""
    with running_pool(storage, models, embedder_workers=2, embedder_queue=CLIENTS) as pool:
        eventually(lambda: is_ready(web))

        def in_turn(number: int) -> list[httpx.Response]:
            with web.client() as http:
                form = {"domain": _DOMAIN}
                image = {"file": HARMLESS[number % len(HARMLESS)]}
                return [http.post("/recognize", data=form, files=image) for _ in range(12)]

        with ThreadPoolExecutor(CLIENTS) as threads:
            since_s = time.monotonic()
            answers = [answer for answers in threads.map(in_turn, range(CLIENTS)) for answer in answers]
            capacity = len(answers) / (time.monotonic() - since_s)
        assert {told(answer) for answer in answers} <= {(200, None), (503, "pool_busy")}

        load = int(5 * 2 * capacity)
        with ThreadPoolExecutor(min(load, 64)) as threads:
            sent = []
            since_s = time.monotonic()
            for number in range(load):
                time.sleep(max(0.0, since_s + number / (2 * capacity) - time.monotonic()))
                sent.append(threads.submit(recognise, web, HARMLESS[number % len(HARMLESS)]))
            answers = [answer.result() for answer in sent]
        counted = Counter(told(answer) for answer in answers)
        assert set(counted) <= {(200, None), (503, "pool_busy")}, counted
        assert counted[200, None] > 0
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 503)
        assert pool.deaths() == {}
