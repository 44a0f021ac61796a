"""The pool under more load than it takes, and with a worker that hangs: over real processes and the real socket."""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter

import httpx
import psutil
import pytest
from PIL import Image

from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.errors import EmbedderUnavailable, InvalidImage, ModelUnavailable, UnknownModel, WorkerTimeout
from tests import pictures
from tests.packs import install_scrfd
from tests.service.running import ROOT, SMALL, argv_of, eventually, free_port, running_service

pytestmark = pytest.mark.service


def test_more_requests_than_the_queue_holds_are_refused_at_once_and_the_others_answered(tmp_path):
    env = SMALL | {"EMBEDDER_QUEUE": "2", "FACE_CACHE_TTL_S": "0"}
    with running_service(tmp_path / "storage", "--workers", "1", env=env) as service:
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
    with running_service(tmp_path / "storage", "--workers", "1", env=SMALL | {"REQUEST_DEADLINE_S": "2"}) as service:
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
    env = SMALL | {"EMBEDDER_MEMORY_MB": "768", "REQUEST_DEADLINE_S": "60"}
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
        eventually(lambda: all(worker.is_loaded for worker in service.embedder().status().workers))
        assert "pictures in quarantine, of which workers died: 1" in service.flask("doctor").stdout


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
    with running_service(tmp_path / "first", env=SMALL) as first:
        env = {**first.env, "STORAGE_DIR": str(first.storage), "EMBEDDER_URL": f"tcp://127.0.0.1:{port}"}
        elsewhere = subprocess.Popen([ROOT / ".venv/bin/python", "-m", "app.embedder.pool"], cwd=ROOT, env=env)
        try:
            client = EmbedderClient(f"tcp://127.0.0.1:{port}")
            eventually(lambda: is_loaded(client))
            photo = pictures.group_photo().read_bytes()
            assert len(client.analyze(photo, deadline=Deadline.after(30)).faces) == 6
            with running_service(
                tmp_path / "second", env=SMALL | {"EMBEDDER_URL": f"tcp://127.0.0.1:{port}"}
            ) as second:
                assert not [process for process in second.tree() if "app.embedder.pool" in argv_of(process)]
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


def test_several_models_are_loaded_side_by_side_and_each_is_asked_by_its_name(tmp_path):
    storage = tmp_path / "storage"
    pack = install_scrfd(storage / "models")
    # The default model is not loaded a second time where it is named.
    env = SMALL | {"EMBEDDER_EXTRA_MODELS": f"{pack.manifest.name}=2,dlib=3"}
    with running_service(storage, "--workers", "1", env=env) as service:
        client = service.embedder()
        eventually(lambda: all(worker.is_loaded for worker in client.status().workers))
        assert re.search(rf"worker pool: 1 x dlib, 2 x {pack.manifest.name}", service.said())
        workers = {worker.pid: worker.model for worker in client.status().workers}
        assert sorted(workers.values()) == ["dlib", pack.manifest.name, pack.manifest.name]
        assert set(workers) == {process.pid for process in service.pool()[1]}
        log = (storage / "logs/embedder.log").read_text()
        for pid, model in workers.items():
            assert re.findall(rf"\[WORKER\] Model (\S+) loaded in .*\bpid={pid}\b", log) == [model]
        photo = pictures.group_photo().read_bytes()
        default = client.analyze(photo, deadline=Deadline.after(30))
        other = client.analyze(photo, deadline=Deadline.after(30), model=pack.manifest.name)
        assert (default.model, other.model) == ("dlib", pack.manifest.name)
        assert (len(default.faces), len(other.faces)) == (6, 6)
        assert other.contract == pack.manifest.contract.id != default.contract
        with pytest.raises(UnknownModel, match=f"loaded: dlib, {pack.manifest.name}"):
            client.analyze(photo, deadline=Deadline.after(30), model="buffalo_l")

        rows = {row["name"]: row for row in json.loads(service.flask("models", "list", "--json").stdout)}
        assert (rows["dlib"]["loaded"], rows[pack.manifest.name]["loaded"], rows["buffalo_l"]["loaded"]) == (1, 2, 0)
        assert "in 2 workers" in service.flask("models", "list").stdout
        examined = service.flask("doctor").stdout
        for name in ("dlib-1", f"{pack.manifest.name}-1", f"{pack.manifest.name}-2"):
            assert f"worker {name}: idle" in examined


def test_a_further_model_that_goes_missing_costs_only_itself_and_doctor_names_it(tmp_path):
    storage = tmp_path / "storage"
    name = install_scrfd(storage / "models").manifest.name
    with running_service(storage, "--workers", "1", env=SMALL | {"EMBEDDER_EXTRA_MODELS": name}) as service:
        client = service.embedder()
        eventually(lambda: all(worker.is_loaded for worker in client.status().workers))
        away = (storage / "models" / name).rename(tmp_path / "away")
        (other,) = [worker for worker in client.status().workers if worker.model == name]
        psutil.Process(other.pid).kill()
        eventually(lambda: [worker.state for worker in client.status().workers] == ["idle", "failed"])
        assert httpx.get(service.url + "/readyz", timeout=60).status_code == 200
        photo = pictures.portrait().read_bytes()
        with pytest.raises(ModelUnavailable, match="installed: dlib"):
            client.analyze(photo, deadline=Deadline.after(30), model=name)
        assert client.analyze(photo, deadline=Deadline.after(30)).model == "dlib"
        examined = service.flask("doctor", check=False)
        assert examined.returncode == 1
        assert re.search(rf"WRONG +pool +worker {name}-1: failed: No model pack named", examined.stdout)
        away.rename(storage / "models" / name)
        eventually(lambda: all(worker.is_loaded for worker in client.status().workers))


def test_a_further_model_that_is_not_installed_is_refused_at_the_start(tmp_path):
    env = {**os.environ, "EMBEDDER_EXTRA_MODELS": "nobody=2"}
    argv = [ROOT / "scripts/serve", "--storage", tmp_path / "s", "--port", str(free_port())]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    said = "cannot start: EMBEDDER_EXTRA_MODELS: No model pack named 'nobody' is installed; installed: dlib."
    assert said in done.stderr
