"""A bulk enrolment whose worker and whose database are killed in the middle: each file is enrolled once, none is lost."""

import random
import signal
from collections import Counter

import httpx
import pytest

from tests import pictures
from tests.pictures import SHARED
from tests.service.jobs_support import ENDED, files_of, jobs_worker, photos, upload, zip_of
from tests.service.running import RunningService, eventually, running_service

pytestmark = [pytest.mark.service, pytest.mark.slow]

FILES = 100


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("kills") / "storage", env={"JOBS_STALLED_S": "3"}) as running:
        yield running


def hundred_photos() -> list[tuple[str, bytes]]:
    """Ten of each of ten persons; without those, one face as a hundred persons."""
    if (SHARED / "faces/lfw10").is_dir():
        return [(f"{name}/{path.name}", path.read_bytes()) for name, own in pictures.lfw10().items() for path in own]
    return [(f"person {number}/1.png", photo) for number, photo in enumerate(photos(FILES))]


def told(http: httpx.Client, job: str) -> dict:
    """What the job says; of a service whose database was killed a moment ago, nothing."""
    answer = http.get(f"/v1/jobs/{job}")
    return answer.json() if answer.status_code == 200 else {"state": "unknown", "done": -1}


@pytest.mark.parametrize("seed", [1])
def test_each_file_is_enrolled_once_whatever_is_killed(service: RunningService, seed: int) -> None:
    chance = random.Random(seed)
    domain = f"kills {seed}"
    victims = ["worker", "postmaster", "worker"]
    chance.shuffle(victims)
    moments = sorted(chance.sample(range(3, 80), len(victims)))
    files = hundred_photos()
    assert len(files) == FILES
    with service.client() as http:
        http.post("/v1/domains", json={"name": domain}).raise_for_status()
        job = upload(http, domain, zip_of(*files)).raise_for_status().json()["id"]
        for victim, moment in zip(victims, moments, strict=True):
            eventually(lambda moment=moment: told(http, job)["done"] >= moment, 120)
            process = jobs_worker(service) if victim == "worker" else service.postmaster()
            process.send_signal(signal.SIGKILL)
            if victim == "worker":
                eventually(lambda gone=process.pid: worker_pid(service) not in (None, gone))
        eventually(lambda: told(http, job)["state"] in ENDED, 240)
        info = told(http, job)
        assert (info["state"], info["done"], info["total"]) == ("succeeded", FILES, FILES), info
        assert info["attempts"] > 1
        settled = files_of(http, job)
        assert Counter(file["state"] for file in settled).keys() <= {"enrolled", "rejected"}
        # A file that was enrolled and then tried again would be rejected as the duplicate of itself.
        rejected = [file["error"]["code"] for file in settled if file["state"] == "rejected"]
        assert "duplicate" not in rejected
        assert len(rejected) <= 5, rejected
        faces = Counter(
            face["id"]
            for person in pages(http, f"/v1/domains/{domain}/persons")
            for face in pages(http, f"/v1/domains/{domain}/persons/{person['label']}/faces")
        )
        assert faces == Counter(file["face_id"] for file in settled if file["state"] == "enrolled")
        assert faces.total() == FILES - len(rejected)


def worker_pid(service: RunningService) -> int | None:
    try:
        return jobs_worker(service).pid
    except ValueError:  # none now
        return None


def pages(http: httpx.Client, path: str) -> list[dict]:
    return http.get(path, params={"limit": 500}).raise_for_status().json()["items"]
