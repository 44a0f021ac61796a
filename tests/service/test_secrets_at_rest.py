"""What lies in the database and in the logs after a service was used in every way, well and badly: nothing to be stolen."""

import base64
import socket
from urllib.parse import quote
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pytest

from app.embedder.similarity import cosine_similarity_np
from tests.pictures import faceless, lfw10
from tests.service.running import RunningService, eventually, running_service
from tests.service.searching import (
    binary_dump,
    dump,
    found_in,
    found_in_files,
    name_needles,
    picture_needles,
    vector_needles,
)

pytestmark = [pytest.mark.service, pytest.mark.slow]

LABEL = "Ωmega Nebuchadnezzar"
VECTOR_TABLES = ("face_embeddings", "face_rejections")


def make_keys(service: RunningService) -> dict[str, str]:
    """Keys of all kinds: of a tenant, one rotated, one revoked, one made over HTTP with an idempotency key."""
    create = ("keys", "create", "--domain", "people", "--scope", "recognize,enrol,verify,embed,admin")
    keys = {
        name: service.flask(*create, "--name", name).stdout.split()[-1] for name in ("tenant", "rotated", "revoked")
    }
    with service.client() as http:
        listed = {key["name"]: key for key in http.get("/v1/keys").json()["items"]}
        assert http.post(f"/v1/keys/{listed['rotated']['id']}/rotate", json={}).status_code == 200
        assert http.delete(f"/v1/keys/{listed['revoked']['id']}").status_code == 200
        body = {"name": "over http", "domains": ["people"], "scopes": ["recognize"]}
        made = http.post("/v1/keys", json=body, headers={"Idempotency-Key": "k1"})
        assert made.status_code == 201, made.text
        keys["http"] = made.json()["key"]
    return keys


def use_well(http: httpx.Client, pictures: list[bytes]) -> np.ndarray:
    """Enrol, recognise, reject, verify, embed. The embeddings of the pictures."""
    path = f"/v1/domains/people/persons/{LABEL}"
    files = [("file", (f"{LABEL}.jpg", picture)) for picture in pictures[:4]]
    assert http.post(f"{path}/faces", files=files, headers={"Idempotency-Key": uuid4().hex}).status_code == 201
    assert http.patch(path, json={"metadata": {"room": "12"}}).status_code == 200
    encoded = base64.b64encode(pictures[5]).decode()
    assert http.post("/recognize", json={"domain": "people", "image": encoded}).status_code == 200
    assert http.post(f"{path}/rejections", files={"file": pictures[6]}).status_code in (200, 201)
    pair = {"file1": pictures[0], "file2": pictures[5]}
    assert http.post("/v1/verify", files=pair).status_code == 200
    found = []
    for picture in pictures:
        answer = http.post("/v1/embeddings", files={"file": picture})
        assert answer.status_code == 200
        found.append(answer.json()["faces"][0]["embedding"])
    return np.array(found, np.float32)


def use_badly(service: RunningService, keys: dict[str, str], pictures: list[bytes]) -> None:
    """Errors of all kinds; each carries a key, a name or a picture."""
    path = f"/v1/domains/people/persons/{LABEL}"
    with httpx.Client(base_url=service.url, timeout=60) as anybody:
        for headers in (
            {},
            {"x-api-key": keys["revoked"]},
            {"x-api-key": keys["tenant"] + "x"},
            {"Authorization": f"Basic {keys['tenant']}"},
            {"Authorization": f"Bearer {keys['rotated']}"},
        ):
            assert anybody.post("/recognize", headers=headers, data={"domain": "people"}).status_code == 401
        tenant = {"x-api-key": keys["tenant"]}
        for method, url, options in (
            ("POST", f"{path}/faces", {"files": {"file": pictures[0]}}),
            ("POST", f"{path}/faces", {"files": {"file": faceless()}}),
            ("POST", f"{path}/faces", {"content": pictures[0][:5000], "headers": {"Content-Type": "image/jpeg"}}),
            ("POST", "/v1/domains/people/persons", {"json": {"label": LABEL}}),
            ("POST", "/v1/domains/people/persons", {"json": {"label": LABEL + "\0"}}),
            ("PATCH", path, {"json": {"label": ["not", LABEL]}}),
            ("PATCH", path, {"json": {"valid_from": LABEL}}),
            ("GET", f"/v1/domains/{LABEL}", {}),
            ("GET", f"/v1/domains/people/persons/{LABEL}'; DROP TABLE persons; --", {}),
            ("DELETE", f"{path}/faces/{LABEL}", {}),
            ("POST", "/recognize", {"data": {"domain": LABEL}, "files": {"file": pictures[1]}}),
            (
                "POST",
                "/recognize",
                {"json": {"domain": "people", "image": "?" + base64.b64encode(pictures[1]).decode()}},
            ),
            ("GET", f"/nowhere?key={keys['tenant']}&name={LABEL}", {}),
        ):
            given = {**options, "headers": tenant | options.get("headers", {})}
            assert 400 <= anybody.request(method, url, **given).status_code < 500, (method, url)


def speak_badly(service: RunningService, keys: dict[str, str]) -> None:
    """Requests that are no HTTP, with a key and a name in them."""
    key, name = keys["tenant"], quote(LABEL)
    for lines in (
        f"GET /v1/domains/people/persons/{name}?key={key} HTTP/9.9\r\n\r\n",
        f"GET /v1/domains/{name} {key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n folded {name}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nx-api-key : {key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\x00\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {key}\r\n\r\n",
        f"POST /recognize HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n{name}",
    ):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(lines.encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def use_while_the_database_dies(service: RunningService, http: httpx.Client, picture: bytes) -> None:
    postmaster = service.postmaster()
    postmaster.kill()  # its processes end of themselves
    psutil.wait_procs([postmaster], timeout=30)
    statuses = {
        http.post("/recognize", data={"domain": "people"}, files={"file": picture}).status_code,
        http.post(f"/v1/domains/people/persons/{LABEL}/faces", files={"file": picture}).status_code,
    }
    assert all(status < 600 for status in statuses)
    eventually(lambda: http.get("/v1/domains/people").status_code == 200)


def test_neither_keys_nor_faces_lie_about(tmp_path) -> None:
    pictures = [path.read_bytes() for path in next(iter(lfw10().values()))]
    with running_service(tmp_path / "storage", "--workers", "1", env={"LOG_LEVEL": "DEBUG"}) as service:
        with service.client() as http:
            assert http.post("/v1/domains", json={"name": "people"}).status_code == 201
            keys = make_keys(service)
        with httpx.Client(base_url=service.url, headers={"x-api-key": keys["tenant"]}, timeout=60) as http:
            vectors = use_well(http, pictures)
            use_badly(service, keys, pictures)
            speak_badly(service, keys)
            use_while_the_database_dies(service, http, pictures[7])
        keys["admin"] = service.key
        key_needles = {name: key.encode() for name, key in keys.items()}
        # The part of a key that is secret, wherever its prefix may stand.
        key_needles |= {f"secret of {name}": key[-20:].encode() for name, key in keys.items()}
        faces = {
            f"{number}: {what}": needle
            for number, vector in enumerate(vectors)
            for what, needle in vector_needles(vector).items()
        }
        photos = {
            f"{number}: {what}": needle
            for number, picture in enumerate(pictures)
            for what, needle in picture_needles(picture).items()
        }
        assert cosine_similarity_np(vectors[0], vectors[5]) > 0.5  # they are what is enrolled

        everything = binary_dump(service.storage)
        assert found_in(everything, faces), "else this would find nothing anywhere"
        assert found_in(binary_dump(service.storage, VECTOR_TABLES), faces) == set()
        for dumped in (everything, dump(service.storage)):
            assert found_in(dumped, key_needles | photos) == set()
        logs = service.storage / "logs"
        assert (logs / "gunicorn-error.log").read_text().count("Invalid request from ip=") >= 4
        names = name_needles(LABEL)
        assert found_in_files(logs, key_needles | photos | faces | names) == set()
        printed = service.printed.read_bytes()
        assert found_in(printed, key_needles | photos | faces | names) == set()
        # Nor anywhere else in the storage folder; the administrator's key has its file.
        found = found_in_files(service.storage, key_needles | photos)
        assert {file for file, _ in found} <= {"admin.key"}
