"""What runs where, and that nothing brings it down or outlives it."""

import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import create_app
from app.api.access import access_of
from app.api.schemas import Ready
from app.config import parse_settings
from tests import pictures
from tests.service.running import ROOT, SMALL, RunningService, argv_of, eventually, free_port, running_service

pytestmark = pytest.mark.service

_RUNTIME = re.compile(r"onnxruntime|cv2|dlib|insightface")


def mapped_runtimes(pid: int) -> set[str]:
    """Which model runtimes a process has mapped into its memory."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        files = {line.split()[-1] for line in maps if "/" in line}
    return {found.group() for file in files if (found := _RUNTIME.search(os.path.relpath(file, ROOT)))}


def test_only_workers_of_the_pool_hold_a_model_runtime_and_one_model_each(service, http):
    photo = pictures.portrait().read_bytes()
    http.post("/v1/domains", json={"name": "maps"}).raise_for_status()
    for _ in range(8):
        http.post("/recognize", data={"domain": "maps"}, files={"file": photo}).raise_for_status()
    http.delete("/v1/domains/maps").raise_for_status()
    web, web_workers = service.web()
    pool, pool_workers = service.pool()
    jobs, _ = service.part("-m", "app.jobs")
    assert len(web_workers) == 2
    assert pool_workers
    for process in (psutil.Process(service.process.pid), web, *web_workers, pool, jobs):
        assert mapped_runtimes(process.pid) == set(), process.cmdline()
    # Workers are forked from both: other threads would not come along, and what they hold would stay locked.
    for master in (pool, service.web()[0]):
        assert [entry.name for entry in Path(f"/proc/{master.pid}/task").iterdir()] == [str(master.pid)]
    log = (service.storage / "logs/embedder.log").read_text()
    for process in pool_workers:
        assert {"onnxruntime", "dlib"} <= mapped_runtimes(process.pid)
        loaded = re.findall(rf"\[WORKER\] Model (\S+) loaded in .*\bpid={process.pid}\b", log)
        assert loaded == ["dlib"]


def test_the_decoder_needs_no_libgl(service):
    _, workers = service.pool()
    assert not re.search(r"libGL\.so|libX11\.so|libxcb\.so", Path(f"/proc/{workers[0].pid}/maps").read_text())
    needed = subprocess.run(
        [ROOT / ".venv/bin/python", "-c", "import cv2, insightface; print(cv2.__file__)"],
        capture_output=True,
        text=True,
    )
    assert needed.returncode == 0, needed.stderr
    distributions = subprocess.run([ROOT / ".venv/bin/pip", "list"], capture_output=True, text=True).stdout
    assert "opencv-python-headless" in distributions
    assert not re.search(r"^opencv-python\s", distributions, re.MULTILINE)


def test_files_with_secrets_are_private(service):
    for name in ("admin.key", "postgres.key", "postgres-superuser.key"):
        assert (service.storage / name).stat().st_mode & 0o777 == 0o600
    for name in ("run", "postgres"):
        assert (service.storage / name).stat().st_mode & 0o777 == 0o700


def test_no_secret_is_logged_or_shown_in_a_command_line(service, http):
    http.get("/v1/domains").raise_for_status()
    secrets = [
        (service.storage / name).read_text().strip() for name in ("admin.key", "postgres.key", "postgres-superuser.key")
    ]
    told = service.said() + "".join(path.read_text() for path in service.storage.glob("logs/*"))
    told += "".join(" ".join(argv_of(process)) for process in service.tree())
    assert [secret for secret in secrets if secret in told] == []


def test_operators_find_their_log_lines(service, http):
    http.post("/v1/domains", json={"name": "slovenia"}).raise_for_status()
    photo = pictures.portrait().read_bytes()
    http.post("/recognize", data={"domain": "slovenia"}, files={"file": photo}, headers={"X-Request-ID": "find-me"})
    http.delete("/v1/domains/slovenia").raise_for_status()
    lines = (service.storage / "logs/gunicorn-error.log").read_text().splitlines()
    mine = "\n".join(line for line in lines if "request_id=find-me" in line)
    assert "[PGVECTOR] Using pgvector for recognition, domain=slovenia" in mine
    assert "[pgvector] Found 1 faces" in mine
    assert re.search(r"\[pgvector\] Found \d+ matches for face 0", mine)
    assert re.search(r"\[pgvector\] Recognition completed in \d+\.\d\ds, found 0 persons", mine)
    # A worker answers first, then says so.
    embedder = service.storage / "logs/embedder.log"
    worker = re.compile(r"\[WORKER\] [12] faces in .*find-me")
    eventually(lambda: worker.search(embedder.read_text()))


def test_readiness_reports_each_part(service, http):
    told = httpx.get(service.url + "/readyz", timeout=60).json()
    assert told["status"] == "ready"
    assert {name: check["ok"] for name, check in told["checks"].items()} == {
        "database": True,
        "pool": True,
        "model": True,
    }
    assert httpx.get(service.url + "/healthz").json() == {"status": "ok"}
    Ready.model_validate(told, extra="forbid")


def test_readiness_tells_anybody_what_each_worker_does_and_no_process_ids(service):
    pool = httpx.get(service.url + "/readyz", timeout=60).json()["checks"]["pool"]
    names = [worker.name for worker in service.embedder().status().workers]
    assert [worker["name"] for worker in pool["workers"]] == names == [f"dlib-{n + 1}" for n in range(len(names))]
    for worker in pool["workers"]:
        assert set(worker) == {"name", "model", "state", "lane"}
        assert (worker["model"], worker["state"]) in {("dlib", "idle"), ("dlib", "busy")}
    assert pool["queue_length"] == pool["background_queue_length"] == 0
    assert (pool["model"], pool["contract"]) == ("dlib", service.embedder().status().contract)


def test_metrics_count_over_all_processes(service, http):
    def counted() -> float:
        text = http.get("/metrics").raise_for_status().text
        found = re.findall(
            r'^facedex_http_requests_total\{method="GET",route="/healthz",status="200"\} (\S+)$', text, re.M
        )
        return float(found[0]) if found else 0.0

    before = counted()
    for _ in range(20):
        httpx.get(service.url + "/healthz")  # a new connection each time: both processes get some
    assert counted() == before + 20


def test_metrics_are_the_webs_and_the_pools(service, http):
    http.post("/v1/domains", json={"name": "counted"}).raise_for_status()

    def jobs() -> float:
        text = http.get("/metrics").raise_for_status().text
        assert "facedex_pool_up 1.0" in text
        assert "facedex_http_requests_total" in text
        families = [family.name for family in text_string_to_metric_families(text)]
        assert len(families) == len(set(families))
        found = re.findall(r'^facedex_pool_jobs_total\{lane="ordinary",outcome="ok"\} (\S+)$', text, re.M)
        return float(found[0]) if found else 0.0

    service.wait_until_idle()
    before = jobs()
    for number in range(3):  # a file each, which nobody has seen before
        photo = pictures.portrait().read_bytes() + bytes(number)
        http.post("/recognize", data={"domain": "counted"}, files={"file": photo})
    http.delete("/v1/domains/counted").raise_for_status()
    service.wait_until_idle()
    assert jobs() == before + 3


def test_a_killed_pool_is_started_again_and_told_of_in_the_meantime(tmp_path):
    with running_service(tmp_path / "storage", env=SMALL) as service, service.client() as http:
        enrol_one(service, "kept")
        supervisor = psutil.Process(service.process.pid)
        pool, workers = service.pool()
        supervisor.suspend()  # nobody starts it again
        try:
            pool.kill()
            assert psutil.wait_procs(workers, timeout=30)[1] == []  # none outlives it
            text = http.get("/metrics").raise_for_status().text
            assert "facedex_pool_up 0.0" in text
            assert "facedex_http_requests_total" in text
            photo = pictures.portrait().read_bytes()
            answer = http.post("/recognize", data={"domain": "kept"}, files={"file": photo + b"another"})
            assert (answer.status_code, answer.json()["code"]) == (503, "embedder_unavailable")
            eventually(lambda: not httpx.get(service.url + "/readyz", timeout=60).json()["checks"]["pool"]["ok"])
        finally:
            supervisor.resume()
        eventually(lambda: is_recognized(service, "kept"))
        assert service.pool()[0].pid != pool.pid


def test_the_api_description_covers_every_route(service, http):
    description = http.get("/openapi.json").raise_for_status().json()
    described = {(path, method) for path, operations in description["paths"].items() for method in operations}
    app = create_app(parse_settings(storage_dir=service.storage))
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(("/docs", "/openapi.json")) and not is_page(app, rule.endpoint)
    }
    assert described == routes
    assert "domain" in {parameter["name"] for parameter in description["paths"]["/recognize"]["post"]["parameters"]}


def is_page(app, endpoint: str) -> bool:
    declared = access_of(app, endpoint)
    return declared is not None and declared.page


def test_a_second_service_on_the_same_storage_is_refused(service):
    second = subprocess.run(
        [ROOT / "scripts/serve", "--storage", service.storage, "--port", str(free_port())],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert "another Facedex runs with this storage folder" in second.stderr


def test_a_port_in_use_is_named(service, tmp_path):
    second = subprocess.run(
        [ROOT / "scripts/serve", "--storage", tmp_path / "s", "--port", str(service.port)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"127.0.0.1:{service.port}" in second.stderr
    assert "Traceback" not in second.stderr


def test_wrong_settings_are_named_before_anything_starts(tmp_path):
    told = subprocess.run(
        [ROOT / "scripts/serve", "--storage", tmp_path / "s", "--port", "99999"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 2
    assert "PORT" in told.stderr
    assert not (tmp_path / "s").exists()


def enrol_one(service: RunningService, domain: str) -> None:
    with service.client() as http:
        http.post("/v1/domains", json={"name": domain}).raise_for_status()
        photo = pictures.portrait().read_bytes()
        http.post(f"/v1/domains/{domain}/persons/her/faces", files={"file": photo}).raise_for_status()


def is_recognized(service: RunningService, domain: str) -> bool:
    try:
        with service.client() as http:
            # Another file each time, so that the pool has to look at it.
            photo = pictures.portrait().read_bytes() + os.urandom(8)
            answer = http.post("/recognize", data={"domain": domain}, files={"file": photo})
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and answer.json()["best_match"]["person_name"] == "her"


def test_everything_acknowledged_survives_a_killed_database_and_a_restart(tmp_path):
    storage = tmp_path / "storage"
    with running_service(storage) as first, running_service(tmp_path / "beside", env=SMALL) as second:
        enrol_one(first, "kept")
        assert not is_recognized(second, "kept")  # side by side, and apart
        first.postmaster().kill()
        eventually(lambda: is_recognized(first, "kept"))
        os.kill(first.process.pid, signal.SIGTERM)
        first.process.wait(60)
        assert first.process.returncode == 0
        first.start()
        assert is_recognized(first, "kept")


def test_a_killed_supervisor_leaves_no_process(tmp_path):
    service = RunningService(tmp_path / "storage")
    try:
        service.start()
        enrol_one(service, "kept")
        tree = service.tree()
        service.process.kill()
        service.process.wait()
        _, alive = psutil.wait_procs(tree, timeout=30)
        assert alive == []
        service.start()
        assert is_recognized(service, "kept")
        assert service.stop(signal.SIGTERM) == 0
    finally:
        service.kill()


def test_a_killed_worker_costs_no_request(tmp_path):
    """Workers are killed while clients recognise; each request is answered, and the pool is whole again."""
    with running_service(tmp_path / "storage", "--workers", "2", env=SMALL) as service:
        enrol_one(service, "busy")
        answers: list[bool] = []
        done = threading.Event()

        def client() -> None:
            while not done.is_set():
                answers.append(is_recognized(service, "busy"))

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        try:
            for kills in range(1, 6):
                eventually(lambda wanted=kills * 8: len(answers) >= wanted)
                _, workers = service.pool()
                workers[0].kill()
                eventually(lambda gone=workers[0]: not gone.is_running())
        finally:
            done.set()
            for thread in clients:
                thread.join()
        assert all(answers), f"{answers.count(False)} of {len(answers)} failed"
        eventually(lambda: len(service.pool()[1]) == 2)


def test_a_database_that_is_away_is_a_clear_answer(tmp_path):
    with running_service(tmp_path / "storage", env=SMALL) as service:
        enrol_one(service, "away")
        psutil.Process(service.process.pid).suspend()  # nobody starts the database again
        try:
            postmaster = service.postmaster()
            sessions = postmaster.children()
            postmaster.kill()
            # One that was asked before it saw its end answers first.
            assert psutil.wait_procs(sessions, timeout=60)[1] == []
            photo = pictures.portrait().read_bytes()
            with service.client() as http:
                for _ in range(5):
                    for answer in (
                        http.post("/recognize", data={"domain": "away"}, files={"file": photo}),
                        http.post("/v1/domains/away/persons/him/faces", files={"file": photo}),
                        http.get("/v1/domains"),
                    ):
                        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                        assert "Retry-After" in answer.headers
            assert httpx.get(service.url + "/healthz").status_code == 200

            def only_the_database_is_away() -> bool:
                """Each web process examines it once a second."""
                told = httpx.get(service.url + "/readyz", timeout=60)
                checks = told.json()["checks"]
                return told.status_code == 503 and not checks["database"]["ok"] and checks["pool"]["ok"]

            eventually(only_the_database_is_away)
        finally:
            psutil.Process(service.process.pid).resume()
        eventually(lambda: is_recognized(service, "away"))


def test_a_database_that_hangs_is_given_up_at_the_deadline(tmp_path):
    with running_service(tmp_path / "storage", env=SMALL | {"REQUEST_DEADLINE_S": "8"}) as service:
        enrol_one(service, "hangs")
        server = service.postmaster()
        stopped = [server, *server.children()]
        for process in stopped:
            process.suspend()
        try:
            with service.client() as http:
                photo = pictures.portrait().read_bytes()
                answer = http.post("/recognize", data={"domain": "hangs"}, files={"file": photo})
            assert answer.status_code in (503, 504), answer.text
            assert answer.json()["code"] in ("database_unavailable", "database_timeout")
            assert httpx.get(service.url + "/readyz", timeout=30).status_code == 503
            assert httpx.get(service.url + "/healthz").status_code == 200
        finally:
            for process in reversed(stopped):
                process.resume()
        eventually(lambda: is_recognized(service, "hangs"))


def test_clients_that_fall_silent_do_not_hold_the_service(tmp_path):
    """More half-sent requests than there are threads."""
    with running_service(tmp_path / "storage", env=SMALL | {"WEB_WORKERS": "1", "WEB_THREADS": "4"}) as service:
        silent = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(6)]
        try:
            for connection in silent:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
            assert httpx.get(service.url + "/healthz", timeout=60).status_code == 200
            log = service.storage / "logs/gunicorn-error.log"
            eventually(lambda: log.read_text().count("A client was given up") == len(silent))
            assert "Traceback" not in log.read_text()
        finally:
            for connection in silent:
                connection.close()


def slow_reader(service: RunningService, request: bytes) -> socket.socket:
    """A client that asks, with room for next to nothing of the answer, and then reads none of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # which keeps the service's own buffer small
    connection.connect(("127.0.0.1", service.port))
    connection.sendall(request)
    return connection


def test_clients_that_do_not_read_their_answers_are_given_up(tmp_path):
    """More of them than there are threads, and one with a stream, which holds the only place for batches."""
    with running_service(tmp_path / "storage", env=SMALL | {"WEB_WORKERS": "1", "WEB_THREADS": "4"}) as service:
        head = f"HTTP/1.1\r\nHost: x\r\nx-api-key: {service.key}\r\n"
        name = b"n" * 1000  # stands in the answer, which so is longer than the buffers
        files = b"--x\r\nContent-Disposition: form-data; name=file; filename=%s\r\n\r\njunk\r\n" % name * 100
        files += b"--x--\r\n"
        stream = (
            f"POST /v1/embeddings/batch?stream=true {head}Content-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {len(files)}\r\n\r\n"
        )
        asking = [stream.encode() + files, *[f"GET /openapi.json {head}\r\n".encode()] * 6]
        readers = [slow_reader(service, request) for request in asking]
        try:
            with service.client() as http:
                assert http.get("/healthz").status_code == 200
                log = service.storage / "logs/gunicorn-error.log"
                eventually(lambda: log.read_text().count("A client was given up") == len(readers), within_s=120)
                batch = http.post("/v1/embeddings/batch", files={"file": pictures.portrait().read_bytes()})
                assert batch.status_code == 200
            assert "Traceback" not in log.read_text()
        finally:
            for connection in readers:
                connection.close()


def test_a_pool_without_a_model_is_not_ready_but_lives_and_recovers(tmp_path):
    with running_service(tmp_path / "storage", env=SMALL) as service:
        manifest = service.storage / "models/dlib/manifest.json"
        kept = manifest.read_text()
        manifest.write_text("{")
        for worker in service.pool()[1]:
            worker.kill()
        eventually(lambda: httpx.get(service.url + "/readyz", timeout=60).status_code == 503)
        assert httpx.get(service.url + "/healthz").status_code == 200
        with service.client() as http:
            assert http.get("/v1/domains").status_code == 200
        # Each web process asks once a second, and a worker that is just starting cannot say yet.
        eventually(lambda: "manifest" in str(httpx.get(service.url + "/readyz", timeout=60).json()["reasons"]))
        manifest.write_text(kept)
        eventually(lambda: httpx.get(service.url + "/readyz", timeout=60).status_code == 200)
