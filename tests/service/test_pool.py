"""The pool under more load than it takes, and with a worker that hangs: over real processes and the real socket."""

import signal
import threading
import time
from collections import Counter

import httpx
import pytest

from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.errors import EmbedderUnavailable, InvalidImage, WorkerTimeout
from tests import pictures
from tests.service.running import eventually, running_service

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
        client = EmbedderClient(f"unix:{service.storage}/run/embedder.sock")
        started = time.monotonic()
        with pytest.raises(WorkerTimeout):
            client.analyze(pictures.portrait().read_bytes(), deadline=Deadline.after(2))
        assert time.monotonic() - started >= 2
        eventually(lambda: [other.pid for other in service.pool()[1]] not in ([], [worker.pid]))
        eventually(lambda: client.status().model == "dlib")


def test_the_client_names_what_went_wrong(service, tmp_path):
    client = EmbedderClient(f"unix:{service.storage}/run/embedder.sock")
    with pytest.raises(InvalidImage):
        client.analyze(b"junk", deadline=Deadline.after(10))
    with pytest.raises(WorkerTimeout):
        client.analyze(b"junk", deadline=Deadline.after(0))
    with pytest.raises(EmbedderUnavailable):
        EmbedderClient(f"unix:{tmp_path}/nothing.sock").status()
    with pytest.raises(EmbedderUnavailable):
        EmbedderClient("http://127.0.0.1:1").status()


@pytest.mark.parametrize("embed", ["all", "largest", "none"])
def test_embeddings_cross_the_socket_as_they_are(service, embed):
    client = EmbedderClient(f"unix:{service.storage}/run/embedder.sock")
    analysis = client.analyze(pictures.group_photo().read_bytes(), deadline=Deadline.after(10), embed=embed)
    embedded = [face.embedding is not None for face in analysis.faces]
    assert embedded == {"all": [True] * 6, "largest": [True] + [False] * 5, "none": [False] * 6}[embed]
    for face in analysis.faces:
        if face.embedding is not None:
            assert face.embedding.shape == (128,)
            assert float(face.embedding @ face.embedding) == pytest.approx(1.0, abs=1e-5)
