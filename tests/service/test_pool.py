"""The pool under more load than it takes, and with a worker that hangs: over real processes and the real socket."""

import hashlib
import signal
import subprocess
import threading
import time
from collections import Counter

import httpx
import pytest
from PIL import Image

from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.errors import EmbedderUnavailable, InvalidImage, UnknownModel, WorkerTimeout
from tests import pictures
from tests.service.running import ROOT, eventually, free_port, running_service

pytestmark = pytest.mark.service


def test_more_requests_than_the_queue_holds_are_refused_at_once_and_the_others_answered(tmp_path):
    with running_service(tmp_path / "storage", "--workers", "1", env={"EMBEDDER_QUEUE": "2"}) as service:
        with service.client() as http:
            http.post("/v1/domains", json={"name": "busy"}).raise_for_status()
        photo = pictures.group_photo().read_bytes()
        answers: list[httpx.Response] = []

        def client() -> None:
            with service.client() as http:
                for _ in range(3):
                    answers.append(http.post("/recognize", data={"domain": "busy"}, files={"file": photo}))

        clients = [threading.Thread(target=client) for _ in range(12)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        counted = Counter((answer.status_code, answer.json().get("code")) for answer in answers)
        assert set(counted) == {(200, None), (503, "pool_busy")}
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 503)


def test_a_worker_that_hangs_costs_504_at_the_deadline_and_is_replaced(tmp_path):
    with running_service(tmp_path / "storage", "--workers", "1", env={"REQUEST_DEADLINE_S": "2"}) as service:
        _, (worker,) = service.pool()
        worker.send_signal(signal.SIGSTOP)
        client = service.embedder()
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            client.analyze(pictures.portrait().read_bytes(), deadline=Deadline.after(2))
        assert time.monotonic() - started >= 2
        eventually(lambda: [other.pid for other in service.pool()[1]] not in ([], [worker.pid]))
        eventually(lambda: client.status().model == "dlib")
        assert len(client.analyze(pictures.portrait().read_bytes(), deadline=Deadline.after(10)).faces) >= 1


def test_a_picture_that_needs_more_memory_than_a_worker_may_have_costs_only_itself(tmp_path):
    """64 megapixels of WebP take about 1.1 GB beside the model."""
    env = {"EMBEDDER_MEMORY_MB": "768", "REQUEST_DEADLINE_S": "60"}
    with running_service(tmp_path / "storage", "--workers", "2", env=env) as service, service.client() as http:
        http.post("/v1/domains", json={"name": "large"}).raise_for_status()
        large = pictures.encode(Image.new("RGB", (8000, 8000), "red"), "WEBP", method=0)

        def answer(photo: bytes) -> tuple[int, str | None]:
            told = http.post("/recognize", data={"domain": "large"}, files={"file": photo})
            return told.status_code, told.json().get("code")

        assert answer(large) == (422, "image_quarantined")
        assert answer(large) == (422, "image_quarantined")
        assert answer(pictures.portrait().read_bytes()) == (200, None)
        (held,) = service.embedder().quarantined()
        assert (held.sha256, held.cause) == (hashlib.sha256(large).hexdigest(), "memory")
        assert 'facedex_pool_worker_restarts_total{cause="memory"} 2.0' in http.get("/metrics").text


def test_the_client_names_what_went_wrong(service, tmp_path):
    client = service.embedder()
    with pytest.raises(InvalidImage):
        client.analyze(b"junk", deadline=Deadline.after(10))
    with pytest.raises(WorkerTimeout):
        client.analyze(b"junk", deadline=Deadline.after(0))
    with pytest.raises(UnknownModel, match="dlib"):
        client.analyze(b"junk", deadline=Deadline.after(10), model="nobody")
    with pytest.raises(EmbedderUnavailable):
        EmbedderClient(f"unix:{tmp_path}/nothing.sock").status()
    with pytest.raises(EmbedderUnavailable):
        EmbedderClient("tcp://127.0.0.1:1").status()


def test_a_pool_elsewhere_is_asked_over_tcp(tmp_path):
    """The pool of one service is that of another one, which has none."""
    port = free_port()
    with running_service(tmp_path / "first") as first:
        env = {**first.env, "STORAGE_DIR": str(first.storage), "EMBEDDER_URL": f"tcp://127.0.0.1:{port}"}
        elsewhere = subprocess.Popen([ROOT / ".venv/bin/python", "-m", "app.embedder.pool"], cwd=ROOT, env=env)
        try:
            client = EmbedderClient(f"tcp://127.0.0.1:{port}")
            eventually(lambda: is_loaded(client))
            photo = pictures.group_photo().read_bytes()
            assert len(client.analyze(photo, deadline=Deadline.after(30)).faces) == 6
            with running_service(tmp_path / "second", env={"EMBEDDER_URL": f"tcp://127.0.0.1:{port}"}) as second:
                assert not [process for process in second.tree() if "app.embedder.pool" in process.cmdline()]
                with second.client() as http:
                    http.post("/v1/domains", json={"name": "far"}).raise_for_status()
                    told = http.post("/recognize", data={"domain": "far"}, files={"file": photo}).raise_for_status()
                assert len(told.json()["faces"]) == 6
        finally:
            elsewhere.terminate()
            assert elsewhere.wait(60) == 0


def is_loaded(client: EmbedderClient) -> bool:
    try:
        return client.status().model is not None
    except EmbedderUnavailable:
        return False


@pytest.mark.parametrize("embed", ["all", "largest", "none"])
def test_embeddings_cross_the_socket_as_they_are(service, embed):
    analysis = service.embedder().analyze(pictures.group_photo().read_bytes(), deadline=Deadline.after(10), embed=embed)
    embedded = [face.embedding is not None for face in analysis.faces]
    assert embedded == {"all": [True] * 6, "largest": [True] + [False] * 5, "none": [False] * 6}[embed]
    for face in analysis.faces:
        if face.embedding is not None:
            assert face.embedding.shape == (128,)
            assert float(face.embedding @ face.embedding) == pytest.approx(1.0, abs=1e-5)
