"""What a request costs, in counts: times follow from them, and they are the same on every machine."""

import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import pytest

from app.config import PROJECT_ROOT, Settings
from app.db import session as db_session
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.recognition.pgvector import PgvectorGallery, PgvectorRecognition
from app.recognition.service import FaceHits, SearchQuery
from app.vision.engine import load_engine
from app.vision.faces import Float32Array
from tests.db_server import Maker, contract, noisy_copies, random_units
from tests.embedder.pools import running_pool
from tests.packs import install_dlib
from tests.pictures import group_photo

QUERY = SearchQuery(contract=contract(64), top_k=5, threshold=0.4, margin=0.03)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that something waited for the database server."""
    counted: list[int] = []
    usual = db_session._BoundedConnection.wait

    def wait(self, *arguments, **named):
        counted.append(1)
        return usual(self, *arguments, **named)

    monkeypatch.setattr(db_session._BoundedConnection, "wait", wait)
    return counted


def settled(work, turns: list[int]) -> int:
    """How often `work` waits once connections are open and statements prepared, which takes a few times."""
    for _ in range(12):
        work()
    turns.clear()
    work()
    return len(turns)


@pytest.fixture
def recognition(database_settings: Settings, database: Database) -> PgvectorRecognition:
    return PgvectorRecognition(database_settings, database, CircuitBreaker())


def look(opened: PgvectorGallery, probes: list[Float32Array]) -> list[FaceHits]:
    with opened.searched(probes, QUERY, Deadline.after(30)) as hits:
        return hits


def test_a_small_gallery_is_searched_in_one_statement(
    recognition: PgvectorRecognition, make_gallery: Maker, turns: list[int]
) -> None:
    units = random_units(50, 64)
    make_gallery("people", units)
    opened = recognition.open("people", Deadline.after(30))
    # BEGIN with the reach, the search of all faces, COMMIT; the driver waits once more, without sending anything.
    for faces in (1, 8):
        probes = list(units[:faces])
        assert settled(lambda probes=probes: look(opened, probes), turns) <= 4
    assert settled(lambda: recognition.open("people", Deadline.after(30)), turns) <= 2


def test_a_clear_match_in_a_large_gallery_costs_no_turn_more_and_a_doubtful_one_two(
    database_settings: Settings, database: Database, make_gallery: Maker, turns: list[int]
) -> None:
    units = random_units(400, 64)
    make_gallery("people", units)
    large = database_settings.model_copy(update={"search_exact_max_rows": 100})
    opened = PgvectorRecognition(large, database, CircuitBreaker()).open("people", Deadline.after(30))

    def search(probe: Float32Array) -> str:
        [hits] = look(opened, [probe])
        return hits.path

    [near] = noisy_copies(units[7:8], 0.3)
    [stranger] = random_units(1, 64, seed=99)
    assert search(near) == "hnsw"
    assert settled(lambda: search(near), turns) <= 4
    assert search(stranger) == "hnsw+exact"
    assert settled(lambda: search(stranger), turns) <= 6


def test_a_search_is_planned_twice_by_a_connection_and_kept_from_then_on(
    recognition: PgvectorRecognition, make_gallery: Maker
) -> None:
    units = random_units(50, 64)
    make_gallery("people", units)
    opened = recognition.open("people", Deadline.after(30))
    plans = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%%occurrences%%'"

    for _ in range(5):
        look(opened, [units[0]])
    with recognition._database.bare_transaction() as same_connection:  # the pool gives the one that was used last
        [(generic, custom)] = db_session.fetch_raw(same_connection, plans)
    assert (generic, custom) == (4, 0)


def test_each_face_of_a_picture_goes_through_the_model_once_and_none_that_need_not(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(install_dlib(tmp_path_factory.mktemp("models")))
    calls: Counter[int] = Counter()
    usual = onnxruntime.InferenceSession.run

    def run(self, names, inputs, *more):
        calls[len(next(iter(inputs.values())))] += 1
        return usual(self, names, inputs, *more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    found = engine.analyze(group_photo().read_bytes(), max_pixels=10_000_000)
    assert len(found.faces) >= 5
    assert sum(faces * times for faces, times in calls.items()) == len(found.faces)
    assert calls.total() <= len(found.faces)
    calls.clear()
    engine.analyze(group_photo().read_bytes(), max_pixels=10_000_000, embed="none")
    assert not calls


@contextmanager
def counting(address: str, path: str) -> Iterator[Counter[str]]:
    """A socket before the pool's, which counts what goes each way."""
    counted: Counter[str] = Counter()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def copy(source: socket.socket, target: socket.socket, way: str) -> None:
        while data := source.recv(1 << 20):
            counted[way] += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.socket(socket.AF_UNIX) as pool:
            pool.connect(address.removeprefix("unix:"))
            asking = threading.Thread(target=copy, args=(client, pool, "asked"))
            asking.start()
            copy(pool, client, "answered")
            asking.join()

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield counted
    finally:
        server.join()
        listener.close()


def test_a_picture_crosses_the_socket_once_and_its_faces_come_back_as_bytes(
    tmp_path_factory: pytest.TempPathFactory, models
) -> None:
    folder = tmp_path_factory.mktemp("p")
    image = group_photo().read_bytes()
    with running_pool(folder / "storage", models, embedder_workers=1) as pool:
        address = f"unix:{pool.socket}"
        with counting(address, str(folder / "counted.sock")) as counted:
            found = EmbedderClient(f"unix:{folder / 'counted.sock'}").analyze(image, deadline=Deadline.after(60))
    faces = len(found.faces)
    assert faces >= 5
    assert counted["asked"] <= len(image) + 1_024
    vectors = sum(face.embedding.nbytes for face in found.faces if face.embedding is not None)
    assert counted["answered"] <= vectors * 4 / 3 + 400 * faces + 1_024


def modules_after(program: str) -> list[str]:
    """What a Python of its own has loaded after that."""
    program = f"{program}; import sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_web_imports_no_more_than_it_did() -> None:
    program = "from app.api.wiring import build_app; from app.config import parse_settings; build_app(parse_settings())"
    modules = modules_after(program)
    # What takes long to import, or much memory, and only commands or other processes need.
    heavy = {
        "onnxruntime",
        "onnx",
        "cv2",
        "dlib",
        "insightface",
        "scipy",
        "skimage",
        "PIL",
        "alembic",
        "redis",
        "procrastinate",
        "boto3",
        "cryptography",
    }
    assert heavy.isdisjoint(modules)
    # 1,340 when this was written. Whoever needs more, raises it knowingly: each thousand is about half a second of a start.
    assert len(modules) <= 1_450, Counter(name.partition(".")[0] for name in modules).most_common(20)


def test_a_worker_with_the_default_pack_loads_nothing_that_only_making_packs_needs(tmp_path: Path) -> None:
    pack = install_dlib(tmp_path)
    load = f"load_engine(PackStore(Path({str(tmp_path)!r})).get({pack.manifest.name!r}))"
    modules = modules_after(
        "from pathlib import Path; import app.embedder.pool; from app.vision.engine import load_engine;"
        f" from app.vision.packs import PackStore; {load}"
    )
    assert "dlib" in modules
    heavy = {
        "onnx",
        "ml_dtypes",
        "google.protobuf",
        "insightface",
        "scipy",
        "skimage",
        "sqlalchemy",
        "flask",
        "psycopg",
    }
    assert heavy.isdisjoint(modules)
    # 640 when this was written.
    assert len(modules) <= 700, Counter(name.partition(".")[0] for name in modules).most_common(20)
