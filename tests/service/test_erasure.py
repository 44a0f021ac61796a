"""Somebody is erased from a running service: then nothing knows them, neither process nor file, but for the receipt."""

import io
import json
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import numpy as np
import pytest
from PIL import Image
from redis import Redis

from tests.deepface_files import dataset
from tests.pictures import lfw10
from tests.redis_server import redis_server
from tests.service.running import RunningService, eventually, free_port, running_service
from tests.service.searching import (
    dump,
    found_in,
    found_in_files,
    name_needles,
    picture_needles,
    superuser,
    vector_needles,
)

pytestmark = [pytest.mark.service, pytest.mark.slow]

LABEL = 'Živa-Šárka "Ž" O\'Quetzalcoatl 🌹'
SHOWN = "Dr. Nebuchadnezzar Ὀδυσσεύς"
ENROLLED = slice(0, 3)
PROBE = 8


def enrol(http: httpx.Client, label: str, pictures: list[Path], domain: str = "people") -> dict[str, Any]:
    files = [("file", (f"{label}-{path.name}", path.read_bytes())) for path in pictures]
    answer = http.post(
        f"/v1/domains/{domain}/persons/{_quoted(label)}/faces", files=files, headers={"Idempotency-Key": uuid4().hex}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


def named(http: httpx.Client, picture: Path, mode: str = "pgvector", domain: str = "people") -> set[str]:
    """Who is recognised or listed on a picture."""
    answer = http.post("/recognize", data={"domain": domain}, files={"file": picture.read_bytes()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["mode"] == mode
    return {match["person_name"] for match in answer.json()["all_detected_matches"]} | {
        candidate["person"]["label"] for face in answer.json()["faces"] for candidate in face["candidates"]
    }


def _quoted(label: str) -> str:
    return quote(label, safe="")


def raw_vectors(http: httpx.Client, pictures: list[Path]) -> np.ndarray:
    """Embeddings for a dataset, at another length than one, as DeepFace keeps them."""
    found = []
    for path in pictures:
        answer = http.post("/v1/embeddings", files={"file": path.read_bytes()})
        assert answer.status_code == 200, answer.text
        found.append(np.array(answer.json()["faces"][0]["embedding"], dtype=np.float32) * np.float32(1.37))
    return np.stack(found)


def halves(service: RunningService) -> dict[str, np.ndarray]:
    """What the index has of each template: at half precision, normalised there."""
    with superuser(service.storage) as connection:
        rows = connection.execute("SELECT id::text, l2_normalize(embedding::halfvec(128))::text FROM face_embeddings")
        return {face_id: np.array(json.loads(vector), dtype=np.float16) for face_id, vector in rows}


def test_under_load_nobody_who_asks_after_the_receipt_hears_of_them(service: RunningService) -> None:
    """`service` is the shared one: this leaves it as it found it."""
    people = lfw10()
    wanted, other = list(people)[:2]
    with service.client() as http:
        domain = f"load-{uuid4()}"
        assert http.post("/v1/domains", json={"name": domain}).status_code == 201
        enrol(http, wanted, people[wanted][ENROLLED], domain)
        enrol(http, other, people[other][ENROLLED], domain)
    erased_s: list[float] = []
    seen: set[str] = set()

    def ask(number: int) -> list[tuple[float, str, set[str]]]:
        heard = []
        with service.client() as http:
            while len(heard) < 4 or not erased_s or heard[-1][0] < erased_s[0]:
                began_s = time.monotonic()
                label = (wanted, other)[(number + len(heard)) % 2]
                heard.append((began_s, label, named(http, people[label][PROBE], domain=domain)))
                seen.update(heard[-1][2])
        return heard

    with ThreadPoolExecutor(4) as threads, service.client() as http:
        asking = [threads.submit(ask, number) for number in range(4)]
        eventually(lambda: wanted in seen)
        receipt = http.delete(f"/v1/domains/{domain}/persons/{_quoted(wanted)}")
        erased_s.append(time.monotonic())
        assert (receipt.status_code, receipt.json()["state"]) == (200, "finished")
        heard = [answer for future in asking for answer in future.result()]
    assert any(wanted in names for began_s, _, names in heard if began_s < erased_s[0])
    after = [(label, names) for began_s, label, names in heard if began_s >= erased_s[0]]
    assert after
    assert all(wanted not in names for _, names in after)
    assert all(other in names for _, label, names in heard if label == other)
    with service.client() as http:
        assert http.delete(f"/v1/domains/{domain}").status_code == 200


@pytest.fixture
def redis_port(tmp_path: Path):
    """Of a Redis of the test's own; None where there is none on this machine."""
    if shutil.which("redis-server") is None:
        yield None
        return
    port = free_port()
    with redis_server(tmp_path, port):
        yield port


@pytest.fixture
def keeping(tmp_path: Path, redis_port: int | None):
    env = {"STORE_IMAGES": "true"}
    if redis_port:  # however busy the machine is: it is there
        env["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0?socket_timeout=5&socket_connect_timeout=5"
    with running_service(tmp_path / "storage", "--workers", "1", env=env) as running:
        yield running


def in_redis(port: int | None) -> bytes:
    """All that Redis has: names and values, as they are and as it would write them to its files."""
    if port is None:
        return b""
    parts = []
    with Redis(port=port) as redis:
        for name in redis.scan_iter():
            value = redis.get(name) if redis.type(name) == b"string" else b"".join(redis.zrange(name, 0, -1))
            parts += [name, value, redis.dump(name)]
    return b"\n".join(parts)


def test_nothing_is_left_of_a_person_but_the_receipt(
    keeping: RunningService, tmp_path: Path, redis_port: int | None
) -> None:
    service = keeping
    people = lfw10()
    wanted, *others = list(people)[:4]
    with service.client() as http:
        assert http.post("/v1/domains", json={"name": "people"}).status_code == 201
        for label in others:
            enrol(http, label, people[label][ENROLLED])
        raw = raw_vectors(http, people[wanted][ENROLLED])
        own = dataset(
            service.storage / "pkl/people",
            {LABEL: raw} | {label: raw_vectors(http, people[label][ENROLLED]) for label in others},
        )
        faces = enrol(http, LABEL, people[wanted][ENROLLED])
        path = f"/v1/domains/people/persons/{_quoted(LABEL)}"
        assert http.patch(path, json={"display_name": SHOWN}).status_code == 200
        for answer in (  # errors of all kinds about the person
            http.post("/v1/domains/people/persons", json={"label": LABEL}),
            http.post(f"{path}/faces", files={"file": people[wanted][0].read_bytes()}),
            http.delete(f"{path}/faces/{LABEL.encode().hex()}"),
            http.patch(f"/v1/domains/people/persons/{others[0]}", json={"label": LABEL}),
        ):
            assert answer.status_code in (404, 409), answer.text
        for label, picture, actual in (  # what is said of their face, both ways
            (others[0], people[wanted][7], LABEL),
            (LABEL, people[others[0]][7], others[0]),
        ):
            said = {"files": {"file": picture.read_bytes()}, "data": {"actual": actual}}
            answer = http.post(f"/v1/domains/people/persons/{_quoted(label)}/rejections", **said)
            assert answer.status_code == 201, answer.text
        assert SHOWN in named(http, people[wanted][PROBE])
        small = http.get(f"{path}/faces/{faces['results'][0]['face']['id']}/thumbnail")
        assert (small.status_code, small.headers["Content-Type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(small.content)).size == (128, 128)
        portrait = http.get(f"{path}/thumbnail")
        assert portrait.status_code == 200
        export = http.get(f"{path}/export")
        assert export.status_code == 200
        archive = zipfile.ZipFile(io.BytesIO(export.content))
        told = json.loads(archive.read("person.json"))
    written = tmp_path / "export.zip"
    service.flask("export-person", "--domain", "people", LABEL, "-o", str(written))
    assert written.stat().st_mode & 0o777 == 0o600
    assert zipfile.ZipFile(written).namelist() == archive.namelist()
    assert [face["image"] for face in told["faces"]] == archive.namelist()[1:]
    assert {archive.read(name) for name in archive.namelist()[1:]} == {
        picture.read_bytes() for picture in people[wanted][ENROLLED]
    }
    needles = name_needles(LABEL) | {f"shown: {what}": needle for what, needle in name_needles(SHOWN).items()}
    indexed = halves(service)
    for face in told["faces"]:
        needles |= {
            f"{face['id']}: {what}": needle
            for what, needle in vector_needles(np.array(face["embedding"], np.float32), indexed[face["id"]]).items()
        }
    (theirs,) = (rejection for rejection in told["rejections"] if rejection["actual_person_id"] == told["person"]["id"])
    needles |= {
        f"rejected: {what}": needle
        for what, needle in vector_needles(np.array(theirs["embedding"], np.float32)).items()
    }
    for number, picture in enumerate(people[wanted][ENROLLED]):
        needles |= {f"{number}: {what}": needle for what, needle in picture_needles(picture.read_bytes()).items()}

    needles |= {f"small: {what}": needle for what, needle in picture_needles(small.content).items()}
    for number, vector in enumerate(raw):
        needles |= {f"raw {number}: {what}": needle for what, needle in vector_needles(vector).items()}

    # What is looked for is there, and is found.
    with superuser(service.storage) as connection:
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")
    found = found_in_files(service.storage, needles)
    assert {
        ("postgres", "vector at 0 as <f4"),
        ("postgres", "vector at 0 in the index"),
        ("postgres", f"name {LABEL!r}"),
        ("postgres", f"name {SHOWN!r}"),
        ("pkl", "vector at 0 in a pickle"),
        ("pkl", f"name {LABEL!r}"),
        ("images", f"picture at {people[wanted][0].stat().st_size // 4}"),
        ("images", f"picture at {len(small.content) // 4}"),
    } <= {(file.partition("/")[0], what.rpartition(": ")[2]) for file, what in found}
    assert not {file for file, _ in found if file.startswith("logs/")}
    with service.client() as http:
        uid = http.get("/v1/domains").json()["items"][0]["id"]
    entries = f"{{faces}}:{uid}:".encode()
    assert (entries in in_redis(redis_port)) == (redis_port is not None)
    assert found_in(in_redis(redis_port), needles) == set()  # what it has of them cannot be read
    assert {f"name {LABEL!r}", "vector at 0 as text"} <= {
        what.rpartition(": ")[2] for what in found_in(dump(service.storage), needles)
    }

    done = service.flask("erase", "--domain", "people", LABEL, "--yes", "--purge", "--json")
    receipt = json.loads(done.stdout)
    assert receipt["state"] == "finished"
    assert receipt["counts"] == {
        "templates": 3,
        "rejections": 2,
        "reference_photos": 0,
        "sessions": 0,
        "job_files": 0,
        "kept_answers": receipt["counts"]["kept_answers"],
        "pictures": 3,
        "dataset_rows": 3,
    } | ({"face_cache": receipt["counts"].get("face_cache")} if redis_port else {})
    assert (receipt["counts"].get("face_cache", 0) > 0) == (redis_port is not None)
    assert entries not in in_redis(redis_port)
    assert {entry["place"] for entry in receipt["remains"]} == {"backups", "audit"} | (
        set() if redis_port else {"face_cache"}
    )
    assert receipt["person_id"] == faces["person"]["id"]

    again = service.flask("erase", "--domain", "people", LABEL, "--yes", check=False)
    assert again.returncode == 1
    assert "There is no person" in again.stderr
    assert json.loads(service.flask("erase", "--finish", "--json").stdout) == []
    assert "Nothing of what was deleted" in service.flask("purge", "--domain", "people").stdout
    with service.client() as http:
        assert not named(http, people[wanted][PROBE]) & {LABEL, SHOWN}
        for label in others:
            assert label in named(http, people[label][PROBE])
        assert http.delete(path).status_code == 404
    dumped = dump(service.storage)
    assert found_in(dumped + in_redis(redis_port), needles) == set()
    assert receipt["person_id"].encode() in dumped  # the tombstone, and the audit
    # The command printed the receipt; nothing else was told.
    assert found_in((done.stdout + done.stderr).encode(), needles) == set()
    assert found_in_files(service.storage, needles) == set()
    assert own.exists()

    assert service.stop() == 0
    assert found_in_files(service.storage, needles) == set()

    service.env |= {"VECTOR_DB_ENABLED": "false"}
    service.start("--workers", "1")
    with service.client() as http:
        assert not named(http, people[wanted][PROBE], "pkl") & {LABEL, SHOWN}
        for label in others:
            assert label in named(http, people[label][PROBE], "pkl")
    assert found_in_files(service.storage, needles) == set()
