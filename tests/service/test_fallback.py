"""The PKL service in place of the database: chosen, fallen back to, and changed over to, through the real service."""

import os
import pty
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import text

from app.config import parse_settings
from app.db.domains import create_domain
from app.db.embedded import EmbeddedPostgres
from app.db.session import Database, database_url
from app.vision.engine import load_engine
from app.vision.packs import PackStore
from tests import deepface_files as files
from tests import pictures
from tests.db_server import storage_in
from tests.packs import install_dlib
from tests.service.running import ROOT, SMALL, RunningService, eventually, free_port, running_service

pytestmark = pytest.mark.service

PHOTO = pictures.portrait().read_bytes()


@pytest.fixture(scope="module")
def her_embedding(tmp_path_factory):
    engine = load_engine(install_dlib(tmp_path_factory.mktemp("models")))
    return engine.analyze(PHOTO, max_pixels=pictures.MAX_PIXELS, embed="largest").faces[0].embedding


def put_dataset(storage: Path, domain: str, embedding, label: str = "her") -> Path:
    """A dataset of three: the person on the photo, and two made-up ones."""
    persons = {label: embedding[None] * 1.4, "somebody": files.vectors(3, seed=1), "else": files.vectors(2, seed=2)}
    return files.dataset(storage / "pkl" / domain, persons)


def recognize(http: httpx.Client, domain: str, photo: bytes = PHOTO) -> httpx.Response:
    return http.post("/recognize", data={"domain": domain}, files={"file": photo})


def outcome(answer: httpx.Response) -> tuple:
    """Status, mode, reason and name of an answer; the code of an error."""
    told = answer.json()
    if answer.status_code != 200:
        return (answer.status_code, told["code"])
    best = told["best_match"]
    return (200, told["mode"], told.get("fallback_reason"), best and best["person_name"])


FROM_PGVECTOR = (200, "pgvector", None, "her")
NO_DATABASE = (200, "pkl", "database_unavailable", "her")
NOT_MIGRATED = (200, "pkl", "not_migrated", "her")
BY_CHOICE = (200, "pkl", None, "her")


def make_beside_dataset(storage: Path, domain: str) -> None:
    """An empty domain of a dataset's name, as a migration makes it, and nobody else may."""
    settings = parse_settings(storage_dir=storage, vector_db_url=None, vector_db_enabled=True)
    manifest = PackStore(settings.models_dir).active(None).manifest
    database = Database(settings)
    with database.transaction() as session:
        kind = {"model": manifest.name, "contract": manifest.contract.id, "dimension": manifest.contract.dimension}
        create_domain(session, domain, **kind)
    database.close()


def enrol(http: httpx.Client, domain: str, label: str = "her", *, beside_dataset_in: Path | None = None) -> None:
    if beside_dataset_in is not None:
        refused = http.post("/v1/domains", json={"name": domain})
        assert (refused.status_code, refused.json()["code"]) == (409, "dataset_exists")
        make_beside_dataset(beside_dataset_in, domain)
    else:
        http.post("/v1/domains", json={"name": domain}).raise_for_status()
    http.post(f"/v1/domains/{domain}/persons/{label}/faces", files={"file": PHOTO}).raise_for_status()


@contextmanager
def load(service: RunningService, domain: str, clients: int = 4):
    """Clients that ask again and again; yields what they were answered, in order.

    They pause after each: what they leave of two cores has to be enough to start a process beside.
    """
    answers: list[tuple] = []
    done = threading.Event()

    def client() -> None:
        with service.client() as http:
            while not done.is_set():
                try:
                    answers.append(outcome(recognize(http, domain)))
                except httpx.TransportError as error:
                    answers.append(("dropped", repr(error)))
                done.wait(0.05)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(answers) >= clients)
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


def since(answers: list[tuple], start: int, wanted: tuple, count: int = 20) -> None:
    """Wait until `count` answers in a row, none before `start`, are what is wanted."""
    eventually(lambda: len(answers) - start >= count and set(answers[-count:]) == {wanted})


@pytest.fixture
def listener():
    """A port where a database could be; counts who calls."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                calls.append(address)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], calls
        finally:
            done.set()
            thread.join()


def test_without_a_database_everything_that_needs_none_works_and_the_rest_says_so(tmp_path, her_embedding, listener):
    port, calls = listener
    env = {"VECTOR_DB_ENABLED": "false", "VECTOR_DB_URL": f"postgresql://user:pass@127.0.0.1:{port}/facedex"}
    put_dataset(tmp_path / "storage", "slovenia", her_embedding)
    put_dataset(tmp_path / "storage", "a%2Fb Škoda", her_embedding, "李雷 <b>'\"%s")
    (tmp_path / "storage/pkl/broken").mkdir()
    (tmp_path / "storage/pkl/broken" / files.DLIB_NAME).write_bytes(b"\x80\x04.")
    with running_service(tmp_path / "storage", env=SMALL | env, fresh=True) as service, service.client() as http:
        answer = http.post(
            "/recognize", data={"domain": "slovenia"}, files={"file": PHOTO}, headers={"X-Request-ID": "find-me"}
        )
        assert outcome(answer) == BY_CHOICE
        assert answer.json()["faces"][0]["candidates"][0]["person"] == {"id": None, "label": "her", "name": "her"}
        assert outcome(recognize(http, "a/b Škoda"))[3] == "李雷 <b>'\"%s"
        assert outcome(recognize(http, "nowhere")) == (404, "domain_not_found")
        broken = recognize(http, "broken")
        assert outcome(broken) == (503, "dataset_unavailable")
        assert str(tmp_path) not in broken.text
        assert "Retry-After" in broken.headers
        assert outcome(recognize(http, "slovenia", b"no picture")) == (422, "invalid_image")

        put_dataset(tmp_path / "storage", "came later", her_embedding)
        assert outcome(recognize(http, "came later")) == BY_CHOICE

        for refused in (
            http.get("/v1/domains"),
            http.post("/v1/domains", json={"name": "new"}),
            http.get("/v1/domains/slovenia"),
            http.delete("/v1/domains/slovenia"),
            http.get("/v1/domains/slovenia/persons"),
            http.post("/v1/domains/slovenia/persons", json={"label": "x"}),
            http.post("/v1/domains/slovenia/persons/her/faces", files={"file": PHOTO}),
            http.delete("/v1/domains/slovenia/persons/her"),
        ):
            assert (refused.status_code, refused.json()["code"]) == (503, "database_disabled"), refused.request.url

        counts = {"ok": True, "domains": 4, "usable": 3, "with_problems": 1}
        # What was found within the last second is told again.
        eventually(lambda: httpx.get(service.url + "/readyz", timeout=60).json()["checks"]["datasets"] == counts)
        told = httpx.get(service.url + "/readyz", timeout=60)
        assert (told.status_code, told.json()["status"]) == (200, "ready")
        assert told.json()["checks"]["database"] == {"ok": True, "disabled": True}
        assert "slovenia" not in told.text

        log = (tmp_path / "storage/logs/gunicorn-error.log").read_text()
        mine = "\n".join(line for line in log.splitlines() if "request_id=find-me" in line)
        for wanted in (
            "[PKL] Using PKL for recognition, domain=slovenia",
            "[pkl] Found 1 faces",
            "[pkl] Found 3 matches for face 0",
        ):
            assert wanted in mine
        assert re.search(r"\[pkl\] Recognition completed in \d+\.\d\ds", mine)
        assert "Traceback" not in log

        listed = service.flask("domains", "list", check=False)
        assert listed.returncode == 1
        assert "switched off (VECTOR_DB_ENABLED=false)" in listed.stderr
        examined = service.flask("doctor", check=False)
        assert "'slovenia': 3 persons, 6 embeddings" in examined.stdout
        assert "WRONG  datasets   domain 'broken'" in examined.stdout
        (tmp_path / "storage/pkl/empty").mkdir()
        assert "WRONG  datasets   Domain 'empty': The folder" in service.flask("doctor", check=False).stdout
        assert not [process for process in service.tree() if "postgres" in name_of(process)]
    assert calls == []
    assert not (tmp_path / "storage/postgres").exists()


def test_each_versions_dataset_names_the_thirty_probes_over_http(tmp_path):
    probes = [
        (person, picture.read_bytes())
        for person, photos in pictures.lfw10().items()
        for picture in photos[pictures.GALLERY_SIZE :]
    ]
    for version, folder in files.real_datasets().items():
        (tmp_path / "storage/pkl").mkdir(parents=True, exist_ok=True)
        (tmp_path / "storage/pkl" / version).symlink_to(folder)
    with (
        running_service(tmp_path / "storage", env=SMALL | {"VECTOR_DB_ENABLED": "false"}) as service,
        service.client() as http,
    ):
        for version in files.real_datasets():
            named = [(person, outcome(recognize(http, version, photo))) for person, photo in probes]
            assert {told[:3] for _, told in named} == {(200, "pkl", None)}
            assert [(person, told[3]) for person, told in named if told[3] not in (None, person)] == []
            assert sum(told[3] == person for person, told in named) >= 28


def test_a_domain_that_is_not_migrated_is_answered_from_its_dataset_and_else_not_at_all(tmp_path, her_embedding):
    storage = tmp_path / "storage"
    put_dataset(storage, "only a dataset", her_embedding)
    put_dataset(storage, "migrating", her_embedding)
    with running_service(storage, env=SMALL) as service, service.client() as http:
        assert outcome(recognize(http, "only a dataset")) == NOT_MIGRATED
        assert outcome(recognize(http, "neither")) == (404, "domain_not_found")
        enrol(http, "migrating", "not yet", beside_dataset_in=storage)
        enrol(http, "stuck", "not yet")
        database = Database(parse_settings(storage_dir=storage, vector_db_url=None))
        with database.transaction() as session:
            session.execute(text("UPDATE domains SET complete = false"))
        assert outcome(recognize(http, "migrating")) == NOT_MIGRATED
        stuck = recognize(http, "stuck")
        assert outcome(stuck) == (503, "domain_not_migrated")
        assert "Retry-After" in stuck.headers
        with database.transaction() as session:
            session.execute(text("UPDATE domains SET complete = true"))
        database.close()
        assert outcome(recognize(http, "migrating")) == (200, "pgvector", None, "not yet")
        assert outcome(recognize(http, "stuck")) == (200, "pgvector", None, "not yet")
        counted = http.get("/metrics").text
        assert 'facedex_recognition_answers_total{mode="pkl",reason="not_migrated"} 2.0' in counted
        assert 'facedex_recognition_answers_total{mode="pgvector",reason="chosen"} 2.0' in counted


# A transaction that comes here waits until the test lets go of the lock of that number.
HOLDING = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0
    AS 'BEGIN PERFORM pg_advisory_xact_lock(CAST(TG_ARGV[0] AS bigint)); RETURN NEW; END';
CREATE TRIGGER hold_checkpoint BEFORE UPDATE ON migration_runs
    FOR EACH ROW WHEN (OLD.rows_done < 4 AND NEW.rows_done >= 4) EXECUTE FUNCTION hold(1);
CREATE TRIGGER hold_switch AFTER UPDATE ON domains
    FOR EACH ROW WHEN (NEW.complete AND NOT OLD.complete) EXECUTE FUNCTION hold(2);
"""


def is_held(database: Database, number: int) -> bool:
    """Whether somebody waits for that lock."""
    with database.transaction() as session:
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = :number AND NOT granted)"
        return bool(session.scalar(text(waiting), {"number": number}))


@contextmanager
def migration(service: RunningService, domain: str, path: Path):
    """`flask migrate-pkl` beside the service, two rows at a time; ended where the test fails."""
    argv = ["--app", "wsgi", "migrate-pkl", "--domain", domain, "--path", path, "--batch-size", "2"]
    with subprocess.Popen([ROOT / ".venv/bin/flask", *argv], cwd=ROOT, env=service.env) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_domain_is_answered_from_its_dataset_until_the_last_transaction_of_its_migration(tmp_path, her_embedding):
    storage = tmp_path / "storage"
    path = put_dataset(storage, "moving", her_embedding)
    # The held transaction has more time than the test.
    with running_service(storage, env=SMALL | {"DB_STATEMENT_TIMEOUT_S": "600"}) as service, service.client() as http:
        database = Database(parse_settings(storage_dir=storage, vector_db_url=None))
        with database.maintenance() as holder, load(service, "moving") as answers:
            holder.execute(text(HOLDING))
            holder.execute(text("SELECT pg_advisory_lock(1), pg_advisory_lock(2)"))
            since(answers, 0, NOT_MIGRATED)
            with migration(service, "moving", path) as process:
                for number, stored in ((1, 2), (2, 6)):
                    eventually(lambda number=number: process.poll() is not None or is_held(database, number))
                    told = http.get("/v1/domains/moving").json()
                    assert (told["complete"], told["embeddings"]) == (False, stored)
                    since(answers, len(answers), NOT_MIGRATED)
                    holder.execute(text("SELECT pg_advisory_unlock(:number)"), {"number": number})
                assert process.wait(60) == 0
            since(answers, len(answers), FROM_PGVECTOR)
            told = http.get("/v1/domains/moving").json()
            assert (told["complete"], told["migrated_share"], told["embeddings"]) == (True, 1.0, 6)
        database.close()
        assert set(answers) == {NOT_MIGRATED, FROM_PGVECTOR}, Counter(answers)


def postgres(service: RunningService) -> list[psutil.Process]:
    postmaster = service.postmaster()
    return [postmaster, *postmaster.children(recursive=True)]


def is_degraded(service) -> bool:
    """Ready, with the database away. Each web process tells what it has found within the last second."""
    told = httpx.get(service.url + "/readyz", timeout=30)
    checks = told.json()["checks"]
    return (told.status_code, told.json()["status"]) == (200, "degraded") and not checks["database"]["ok"]


def test_postgres_stopped_under_load_every_request_is_answered_from_the_dataset_and_then_from_pgvector_again(
    tmp_path, her_embedding
):
    storage = tmp_path / "storage"
    put_dataset(storage, "both", her_embedding)
    with running_service(storage, env=SMALL) as service, service.client() as http:
        enrol(http, "both", beside_dataset_in=storage)
        enrol(http, "no dataset")
        supervisor = psutil.Process(service.process.pid)
        with load(service, "both") as answers:
            since(answers, 0, FROM_PGVECTOR)
            supervisor.suspend()  # nobody starts the database again
            try:
                service.postmaster().kill()
                since(answers, len(answers), NO_DATABASE)
                for refused in (
                    recognize(http, "no dataset"),
                    http.post("/v1/domains/both/persons/new/faces", files={"file": PHOTO}),
                    http.delete("/v1/domains/both/persons/her"),
                    http.delete("/v1/domains/both"),
                    http.post("/v1/domains", json={"name": "new"}),
                ):
                    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
                    assert "Retry-After" in refused.headers
                eventually(lambda: is_degraded(service))
            finally:
                supervisor.resume()
            since(answers, len(answers), FROM_PGVECTOR)
        assert set(answers) == {FROM_PGVECTOR, NO_DATABASE}, Counter(answers)
        assert http.get("/v1/domains/both").json()["embeddings"] == 1  # nothing that was refused happened
        # Each process finds out for itself.
        found = []
        eventually(lambda: found.append(outcome(recognize(http, "no dataset"))) or found[-1] == FROM_PGVECTOR)
        assert set(found) <= {(503, "database_unavailable"), FROM_PGVECTOR}
        log = (storage / "logs/gunicorn-error.log").read_text()
        assert "[PKL] Using PKL for recognition, domain=both reason=database_unavailable" in log
        assert "[RECOGNITION] The database cannot be reached" in log
        assert "[RECOGNITION] The database is back" in log


def test_a_database_that_stops_answering_holds_nobody_up_for_long(tmp_path, her_embedding):
    """Stopped, not ended: its sockets take everything and answer nothing."""
    storage = tmp_path / "storage"
    put_dataset(storage, "both", her_embedding)
    with running_service(storage, env=SMALL) as service, service.client() as http:
        enrol(http, "both", beside_dataset_in=storage)
        with load(service, "both", clients=2) as answers:
            since(answers, 0, FROM_PGVECTOR)
            stopped = postgres(service)
            for process in stopped:
                process.suspend()
            try:
                since(answers, len(answers), NO_DATABASE)
                eventually(lambda: is_degraded(service))
            finally:
                for process in reversed(stopped):
                    if process.is_running():
                        process.resume()
            since(answers, len(answers), FROM_PGVECTOR)
        assert set(answers) == {FROM_PGVECTOR, NO_DATABASE}, Counter(answers)


def test_a_service_starts_though_its_database_elsewhere_is_away_and_migrates_it_when_it_comes(tmp_path, her_embedding):
    elsewhere = storage_in(tmp_path / "elsewhere")
    elsewhere.storage_dir.mkdir()
    EmbeddedPostgres(elsewhere).prepare()
    EmbeddedPostgres(elsewhere).start().stop()
    url = database_url(elsewhere).set(drivername="postgresql").render_as_string(hide_password=False)
    put_dataset(tmp_path / "storage", "d", her_embedding)
    with running_service(tmp_path / "storage", env=SMALL | {"VECTOR_DB_URL": url}) as service, service.client() as http:
        assert "until it is back" in service.said()
        assert outcome(recognize(http, "d")) == NO_DATABASE
        server = EmbeddedPostgres(elsewhere).start()
        try:
            eventually(lambda: httpx.get(service.url + "/readyz", timeout=60).json()["status"] == "ready")
            eventually(lambda: outcome(recognize(http, "d")) == NOT_MIGRATED)
            enrol(http, "new")
            eventually(lambda: outcome(recognize(http, "new")) == FROM_PGVECTOR)
        finally:
            server.stop()


def test_a_service_without_database_and_datasets_does_not_start(tmp_path):
    env = os.environ | {"VECTOR_DB_URL": "postgresql://user:hunter2@127.0.0.1:1/x"}
    argv = [ROOT / "scripts/serve", "--storage", tmp_path / "s", "--port", str(free_port())]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "cannot start: The database cannot be reached" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.fixture
def env_file(tmp_path):
    file = tmp_path / "settings"
    file.write_text("VECTOR_DB_ENABLED=true\n")
    return file


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return ""


def reload(service: RunningService, env_file: Path, content: str) -> str:
    """Edit the settings, ask for a reload; what the service said of it."""
    before = len(service.said())
    env_file.write_text(content)
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reloaded" in service.said()[before:])
    return service.said()[before:]


def test_rolling_back_and_forth_under_load_drops_no_request(tmp_path, her_embedding, env_file):
    storage = tmp_path / "storage"
    put_dataset(storage, "both", her_embedding)
    with running_service(storage, env={"ENV_FILE": str(env_file)}) as service, service.client() as http:
        enrol(http, "both", beside_dataset_in=storage)
        with load(service, "both") as answers:
            since(answers, 0, FROM_PGVECTOR)
            assert "recognition by PKL" in reload(service, env_file, "VECTOR_DB_ENABLED=false\n")
            since(answers, len(answers), BY_CHOICE)
            assert not [process for process in service.tree() if "postgres" in name_of(process)]
            assert http.get("/v1/domains").json()["code"] == "database_disabled"
            for worker in service.web()[1]:  # one that dies now comes back with the same settings
                worker.kill()
                break
        kept = [answer for answer in answers if answer[0] != "dropped"]  # those that the killed worker held
        assert set(kept) == {FROM_PGVECTOR, BY_CHOICE}, Counter(answers)
        with load(service, "both") as answers:
            since(answers, 0, BY_CHOICE)
            assert "recognition by pgvector" in reload(service, env_file, "VECTOR_DB_ENABLED=true\n")
            since(answers, len(answers), FROM_PGVECTOR)
        assert set(answers) <= {FROM_PGVECTOR, BY_CHOICE, NO_DATABASE}, Counter(answers)
        assert http.get("/v1/domains/both").json()["embeddings"] == 1


def test_a_service_that_began_without_a_database_gets_one_by_a_reload(tmp_path, her_embedding, env_file):
    storage = tmp_path / "storage"
    put_dataset(storage, "old", her_embedding)
    env_file.write_text("VECTOR_DB_ENABLED=false\n")
    with running_service(storage, "--env-file", str(env_file), fresh=True) as service, service.client() as http:
        assert outcome(recognize(http, "old")) == BY_CHOICE
        reload(service, env_file, "VECTOR_DB_ENABLED=true\n")
        eventually(lambda: outcome(recognize(http, "old")) == NOT_MIGRATED)
        enrol(http, "new")
        assert outcome(recognize(http, "new")) == FROM_PGVECTOR


_WRONG_SETTINGS = {
    "VECTOR_DB_ENABLED=perhaps\n": "VECTOR_DB_ENABLED",
    "VECTOR_DB_ENABLED=false\nPROT=1\n": "PROT",
    "VECTOR_DB_ENABLED=true\nVECTOR_DB_URL=postgresql://u:hunter2@127.0.0.1:1/x\n": "cannot be reached",
}


def test_a_reload_with_wrong_settings_changes_nothing_and_says_why(tmp_path, her_embedding, env_file):
    storage = tmp_path / "storage"
    put_dataset(storage, "d", her_embedding)
    env_file.write_text("VECTOR_DB_ENABLED=false\n")
    with running_service(storage, env=SMALL | {"ENV_FILE": str(env_file)}) as service, service.client() as http:
        for content, said in _WRONG_SETTINGS.items():
            workers = {worker.pid for worker in service.web()[1]}
            told = reload(service, env_file, content)
            assert "not reloaded" in told
            assert said in told
            assert "hunter2" not in told
            assert outcome(recognize(http, "d")) == BY_CHOICE
            assert {worker.pid for worker in service.web()[1]} == workers
            web = service.web()[0]
            web.send_signal(signal.SIGHUP)  # sent to the web itself, too
            eventually(lambda known=workers: not known & {worker.pid for worker in service.web()[1]})
            assert outcome(recognize(http, "d")) == BY_CHOICE
        web.kill()  # and one that has to be started anew
        web.wait()
        eventually(lambda: is_ready(service))
        assert outcome(recognize(http, "d")) == BY_CHOICE


def is_ready(service: RunningService) -> bool:
    try:
        return httpx.get(service.url + "/readyz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_a_terminal_that_is_closed_ends_the_service_though_sighup_else_asks_for_a_reload(tmp_path, env_file):
    env_file.write_text("VECTOR_DB_ENABLED=false\n")
    given = ["--storage", str(tmp_path / "storage"), "--port", str(free_port()), "--env-file", str(env_file)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ROOT / "scripts/serve", ["serve", *given])
    try:
        read_until(terminal, b"Facedex is ready")
        os.kill(pid, signal.SIGHUP)
        read_until(terminal, b"recognition by PKL")
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    finally:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert psutil.wait_procs(tree[1:], timeout=30)[1] == []


def read_until(terminal: int, wanted: bytes) -> None:
    said = b""
    while wanted not in said:
        said += os.read(terminal, 4096)
