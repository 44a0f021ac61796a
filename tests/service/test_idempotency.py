"""Idempotency keys and the audit, as a client and an operator meet them."""

import json
from uuid import uuid4

import httpx
import pytest

from tests import pictures
from tests.service.running import RunningService, eventually

pytestmark = pytest.mark.service


@pytest.fixture
def domain(http):
    info = http.post("/v1/domains", json={"name": "kept"}).raise_for_status().json()
    yield info
    http.delete(f"/v1/domains/{info['id']}")


def enrol(http: httpx.Client, key: str, *photos: bytes) -> httpx.Response:
    files = [("file", (f"{number}.jpg", data)) for number, data in enumerate(photos)]
    return http.post("/v1/domains/kept/persons/Ana/faces", files=files, headers={"Idempotency-Key": key})


def test_an_upload_that_is_sent_again_is_answered_as_the_first_time(http, domain) -> None:
    photo, key = pictures.portrait().read_bytes(), str(uuid4())
    first, second = enrol(http, key, photo), enrol(http, key, photo)  # each with a boundary of its own
    assert first.request.headers["Content-Type"] != second.request.headers["Content-Type"]
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second.headers["Idempotent-Replayed"] == "true"
    assert enrol(http, key, photo, photo).json()["code"] == "idempotency_key_reused"
    assert http.get("/v1/domains/kept/persons/Ana").json()["faces"] == 1


def test_an_upload_without_a_face_is_not_kept(http, domain) -> None:
    key = str(uuid4())
    for _ in range(2):
        answer = enrol(http, key, pictures.faceless())
        assert (answer.status_code, answer.json()["code"]) == (422, "no_face")
        assert "Idempotent-Replayed" not in answer.headers


def test_what_was_done_is_in_the_audit_and_can_be_verified(service: RunningService, http, domain, tmp_path) -> None:
    photo = pictures.portrait().read_bytes()
    enrol(http, str(uuid4()), photo)
    person = http.get("/v1/domains/kept/persons/Ana").json()["id"]
    http.post("/recognize", data={"domain": "kept"}, files={"file": photo}, headers={"X-Request-ID": "r-77"})
    answer = http.post("/v1/verify", files={"file1": photo, "file2": photo}).raise_for_status().json()
    # An event that the database was too slow for comes a moment later.
    eventually(lambda: "recognition.answered" in http.get("/v1/domains/kept/audit").text)
    page = http.get("/v1/domains/kept/audit").json()
    (recognised,) = [item for item in page["items"] if item["action"] == "recognition.answered"]
    assert recognised["request_id"] == "r-77"
    assert recognised["persons"] == [person]
    assert recognised["details"]["face_0"] == f"match {person}"
    assert recognised["details"]["mode"] == "pgvector"
    assert {item["action"] for item in page["items"]} >= {"domain.created", "face.enrolled", "recognition.answered"}
    assert "Ana" not in json.dumps(page)

    assert "whole" in service.flask("audit", "verify").stdout
    head = service.flask("audit", "head", "--domain", "kept").stdout.split()[1]
    assert head == page["head"]
    assert "whole" in service.flask("audit", "verify", "--domain", "kept", "--head", head).stdout
    told = service.flask("audit", "export", "--installation").stdout
    assert f'\\"request_id\\":\\"{answer["request_id"]}\\"' in told
    file = tmp_path / "kept.jsonl"
    service.flask("audit", "export", "--domain", "kept", "-o", str(file))
    assert "whole" in service.flask("audit", "verify", "--file", str(file)).stdout
    file.write_text(file.read_text().replace("match", "mAtch"))
    broken = service.flask("audit", "verify", "--file", str(file), check=False)
    assert (broken.returncode, "changed" in broken.stdout) == (1, True)


def test_the_events_of_a_deleted_domain_stay(service: RunningService, http, domain) -> None:
    http.delete(f"/v1/domains/{domain['id']}").raise_for_status()
    exported = service.flask("audit", "export", "--domain", domain["id"]).stdout
    assert "domain.deleted" in exported
    assert "(deleted)" in service.flask("audit", "verify").stdout


def test_a_recognition_while_the_database_is_away_is_told_later(service: RunningService, http, domain) -> None:
    photo = pictures.portrait().read_bytes()
    enrol(http, str(uuid4()), photo)
    spool = service.storage / "audit/spool.jsonl"
    spool.parent.mkdir(mode=0o700, exist_ok=True)
    line = {
        "domain": "kept",
        "event": {
            "action": "recognition.answered",
            "at": "2026-01-01T00:00:00.000000Z",
            "client": "admin",
            "request_id": "r-away",
            "persons": [],
            "details": {"faces": 0},
        },
    }
    spool.write_text(json.dumps(line) + "\n")

    def told() -> bool:
        http.post("/recognize", data={"domain": "kept"}, files={"file": photo}).raise_for_status()
        return "r-away" in [item["request_id"] for item in http.get("/v1/domains/kept/audit").json()["items"]]

    eventually(told)
    eventually(lambda: not spool.exists())
    assert "0 events" in service.flask("audit", "import").stdout
