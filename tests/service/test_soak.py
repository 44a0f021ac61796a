"""Memory over many requests: `scripts/bench soak` in short. Nobody is recycled, so that nothing hides a leak."""

import threading
from collections import Counter

import psutil
import pytest

from app.embedder.client import EmbedderClient
from tests import pictures
from tests.service.running import SMALL, RunningService, running_service

pytestmark = [pytest.mark.service, pytest.mark.slow]

CLIENTS = 4
# A request that is kept in memory, or a picture's pixels, shows within so many.
SETTLED, REQUESTS = 160, 480
# What the allocator may still gather while each of the web's threads is used for the first time.
DRIFT = 0.25


def test_memory_does_not_grow_with_the_number_of_requests(tmp_path):
    env = SMALL | {
        "EMBEDDER_MAX_REQUESTS": "0",
        "EMBEDDER_RECYCLE_MB": "0",
        "WEB_WORKERS": "1",
        "WEB_THREADS": "8",
        "FACE_CACHE_TTL_S": "0",
    }
    with running_service(tmp_path / "storage", "--workers", "2", env=env) as service:
        with service.client() as http:
            http.post("/v1/domains", json={"name": "people"}).raise_for_status()
        answered = _ask(service, SETTLED)
        settled = _resident_bytes(service)
        answered += _ask(service, REQUESTS - SETTLED)
        after = _resident_bytes(service)
    assert answered == {200: REQUESTS // 4 * 3, 422: REQUESTS // 4}
    assert after.keys() == settled.keys()
    grown = {name: after[name] / settled[name] - 1 for name in settled}
    assert max(grown.values()) < DRIFT, grown


def _ask(service: RunningService, count: int) -> Counter[int]:
    """That many requests from several clients; how they were answered."""
    # A small picture, so that it is quick; a long file, so that one that is kept is seen.
    photo = pictures.filling_portrait().read_bytes() + bytes(600_000)
    statuses: list[int] = []

    def client() -> None:
        with service.client() as http:
            for number in range(count // CLIENTS):
                match number % 4:
                    case 0 | 1:
                        answer = http.post("/recognize", data={"domain": "people"}, files={"file": photo})
                    case 2:
                        answer = http.post("/v1/embeddings", files={"file": photo})
                    case _:
                        answer = http.post("/v1/detect", files={"file": photo[: len(photo) // 2][::-1]})
                statuses.append(answer.status_code)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(statuses)


def _resident_bytes(service: RunningService) -> dict[str, int]:
    status = EmbedderClient(f"unix:{service.storage}/run/embedder.sock").status()
    _, web = service.web()
    processes = [*(("worker", worker.pid) for worker in status.workers), *(("web", process.pid) for process in web)]
    return {f"{name} {pid}": psutil.Process(pid).memory_info().rss for name, pid in processes}
