"""Bulk enrolment through the API: zips and folders, good and hostile, and jobs as those see them who asked for them."""

import json
import stat
import zipfile
from uuid import uuid4

import httpx
import pytest

from tests.pictures import faceless, filling_portrait, portrait
from tests.service.jobs_support import ended, files_of, paused_worker, photos, upload, zip_of
from tests.service.running import RunningService

pytestmark = pytest.mark.service

FACE = filling_portrait().read_bytes()


@pytest.fixture
def domain(http):
    name = f"imports {uuid4().hex[:6]}"
    http.post("/v1/domains", json={"name": name}).raise_for_status()
    yield name
    http.delete(f"/v1/domains/{name}").raise_for_status()


def labels(http: httpx.Client, domain: str) -> dict[str, int]:
    return {p["label"]: p["faces"] for p in http.get(f"/v1/domains/{domain}/persons").json()["items"]}


def test_a_zip_of_folders_is_enrolled_file_by_file(http, domain):
    data = zip_of(
        ("people/", b""),
        ("people/Škoda/1.png", FACE),
        ("people/Ana/2023/summer.png", portrait().read_bytes()),
        ("people/Ana/none.jpg", faceless()),
        ("people/Ana/notes.txt", b"not a picture"),
        ("people/Ana/empty.jpg", b""),
        ("people/Škoda/again.png", FACE),
        ("people/Škoda/inner.zip", zip_of(("x/1.png", FACE))),
        ("__MACOSX/people/Ana/._1.jpg", b"x"),
        ("people/Ana/.DS_Store", b"x"),
    )
    answer = upload(http, domain, data)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    job = ended(http, answer.json()["id"])
    assert (job["state"], job["domain"], job["done"], job["total"]) == ("succeeded", domain, 7, 7)
    assert job["files"] == {"waiting": 0, "enrolled": 2, "rejected": 5, "failed": 0}
    told = {f["file"]: (f["label"], f["error"] and f["error"]["code"]) for f in files_of(http, job["id"], limit=2)}
    assert told == {
        "people/Škoda/1.png": ("Škoda", None),
        "people/Ana/2023/summer.png": ("Ana", None),
        "people/Ana/none.jpg": ("Ana", "no_face"),
        "people/Ana/notes.txt": ("Ana", "invalid_image"),
        "people/Ana/empty.jpg": ("Ana", "empty_upload"),
        "people/Škoda/again.png": ("Škoda", "duplicate"),
        "people/Škoda/inner.zip": ("Škoda", "invalid_image"),
    }
    assert labels(http, domain) == {"Škoda": 1, "Ana": 1}
    (enrolled,) = [f for f in files_of(http, job["id"], state="enrolled") if f["label"] == "Ana"]
    faces = http.get(f"/v1/domains/{domain}/persons/Ana/faces").json()["items"]
    assert [face["id"] for face in faces] == [enrolled["face_id"]]


def test_the_files_of_a_folder_are_enrolled_by_their_paths(http, domain):
    first, second, third = photos(3)
    files = [("file", ("Ana/1.png", first)), ("file", ("Bob1.png", second)), ("file", ("Bob_02.png", third))]
    job = ended(http, http.post(f"/v1/domains/{domain}/imports", files=files).raise_for_status().json()["id"])
    assert job["state"] == "succeeded"
    # The third is the same face in the same picture, to all that matters.
    assert {f["label"]: f["file"] for f in files_of(http, job["id"], state="enrolled")}.keys() == {"Ana", "Bob"}
    again = http.post(f"/v1/domains/{domain}/imports", files=[("file", ("a/b/Eva/x.png", first))], params={"skip": 2})
    assert ended(http, again.json()["id"])["files"]["enrolled"] == 1
    assert set(labels(http, domain)) == {"Ana", "Bob", "Eva"}


def test_a_hostile_zip_harms_nobody(http, domain, service: RunningService):
    link = zipfile.ZipInfo("Ana/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    bad = [
        "../../climbs/1.png",
        "/etc/absolute.png",
        "C:/drive.png",
        "Ana\\back.png",
        "Ana/../../up.png",
        "a~b/1.png",
    ]
    data = zip_of(
        *((name, FACE) for name in bad),
        (link, b"/etc/passwd"),
        ("Ana/bomb.png", b"\x89PNG\r\n\x1a\n" + bytes(64 * 1024 * 1024)),
        ("Ana/good.png", FACE),
    ).replace(b"a~b/", b"a\0b/")
    # What says it is encrypted: a bit in the directory, and in the file's own head.
    encrypted = bytearray(zip_of(("Ana/secret.png", FACE)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + offset] |= 1
    before = sorted(service.storage.parent.rglob("*1.png"))
    job = ended(http, upload(http, domain, data).raise_for_status().json()["id"])
    codes = {f["file"]: f["error"] and f["error"]["code"] for f in files_of(http, job["id"])}
    assert codes.pop("Ana/good.png") is None
    assert codes.pop("Ana/link.jpg") == "unreadable_file"
    assert codes.pop("Ana/bomb.png") == "upload_too_large"
    assert list(codes.values()) == ["unsafe_path"] * 6
    assert labels(http, domain) == {"Ana": 1}
    assert sorted(service.storage.parent.rglob("*1.png")) == before
    job = ended(http, upload(http, domain, bytes(encrypted)).raise_for_status().json()["id"])
    assert [f["error"]["code"] for f in files_of(http, job["id"])] == ["unreadable_file"]


def test_what_is_no_import_is_refused_and_nothing_is_stored(http, domain):
    whole = zip_of(*((f"Ana/{n}.png", data) for n, data in enumerate(photos(3))))
    for data, code in (
        (whole[:-30], "invalid_archive"),
        (b"PK\x03\x04" + bytes(100), "invalid_archive"),
        (zip_of(("__MACOSX/x", b"x")), "empty_upload"),
        (zip_of(*((f"Ana/{n}.txt", b"") for n in range(10_001))), "import_too_large"),
    ):
        answer = upload(http, domain, data)
        assert answer.json()["code"] == code, answer.text
        assert 400 <= answer.status_code < 500
    assert http.post(f"/v1/domains/{domain}/imports", data={"x": "y"}).json()["code"] in (
        "empty_upload",
        "invalid_request",
    )
    assert upload(http, "nowhere", whole).json()["code"] == "domain_not_found"
    assert http.get("/v1/jobs", params={"domain": domain}).json()["items"] == []


def test_a_repeated_upload_is_one_import(http, domain):
    headers = {"Idempotency-Key": uuid4().hex}
    data = zip_of(("Ana/1.png", FACE))
    first, second = (upload(http, domain, data, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(http.get("/v1/jobs", params={"domain": domain}).json()["items"]) == 1
    other = upload(http, domain, zip_of(("Eva/1.png", FACE)), headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"
    assert ended(http, first.json()["id"])["state"] == "succeeded"


def test_a_cancelled_job_does_nothing_more_and_goes_on_when_it_is_tried_again(http, domain, service):
    with paused_worker(service):
        job = upload(http, domain, zip_of(("Ana/1.png", FACE))).json()["id"]
        assert http.post(f"/v1/jobs/{job}/retry").json()["code"] == "job_not_ended"
        assert http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
        assert http.post(f"/v1/jobs/{job}/cancel").json()["code"] == "job_ended"
    after = ended(http, upload(http, domain, zip_of(("Eva/1.png", FACE))).json()["id"])
    assert after["state"] == "succeeded"  # the queue has gone past the cancelled one
    assert set(labels(http, domain)) == {"Eva"}
    assert http.post(f"/v1/jobs/{job}/retry").json()["state"] in ("queued", "running", "succeeded")
    assert ended(http, job)["state"] == "succeeded"
    assert set(labels(http, domain)) == {"Ana", "Eva"}
    listed = http.get("/v1/jobs", params={"domain": domain, "state": "succeeded", "kind": "import"}).json()["items"]
    assert [entry["id"] for entry in listed] == [after["id"], job]
    metrics = http.get("/metrics").text
    assert 'facedex_jobs{kind="import",state="succeeded"}' in metrics
    assert "facedex_jobs_waiting 0" in metrics


def test_who_is_erased_is_not_brought_back_by_files_that_wait(http, domain, service):
    first, second, third = photos(3)
    http.post(f"/v1/domains/{domain}/persons/Ana/faces", files={"file": first}).raise_for_status()
    http.post(f"/v1/domains/{domain}/persons", json={"label": "Eva"}).raise_for_status()
    with paused_worker(service):
        entries = [("Ana/2.png", second), ("Eva/3.png", third), ("../Ana/4.png", second)]
        job = upload(http, domain, zip_of(*entries)).json()["id"]
        assert http.get(f"/v1/jobs/{job}").json()["total"] == 3
        receipt = http.delete(f"/v1/domains/{domain}/persons/Ana").raise_for_status().json()
        assert receipt["counts"]["job_files"] == 2
        http.patch(f"/v1/domains/{domain}/persons/Eva", json={"label": "Eve"}).raise_for_status()
    told = ended(http, job)
    assert (told["state"], told["done"], told["total"]) == ("succeeded", 1, 1)
    assert [f["label"] for f in files_of(http, job)] == ["Eve"]
    assert labels(http, domain) == {"Eve": 1}


def test_a_job_is_nobody_elses(http, domain, service):
    job = upload(http, domain, zip_of(("Ana/1.png", FACE))).json()["id"]
    other = f"other {uuid4().hex[:6]}"
    http.post("/v1/domains", json={"name": other}).raise_for_status()
    key = http.post("/v1/keys", json={"name": "other", "scopes": ["enrol"], "domains": [other]}).json()
    with httpx.Client(base_url=service.url, headers={"x-api-key": key["key"]}, timeout=30) as stranger:
        assert stranger.get("/v1/jobs").json()["items"] == []
        for method, path in (("GET", ""), ("GET", "/files"), ("POST", "/cancel"), ("POST", "/retry")):
            assert stranger.request(method, f"/v1/jobs/{job}{path}").json()["code"] == "job_not_found"
        assert upload(stranger, domain, zip_of(("Ana/1.png", FACE))).json()["code"] == "domain_not_found"
    http.delete(f"/v1/domains/{other}").raise_for_status()
    assert ended(http, job)["state"] == "succeeded"
    assert http.get("/v1/jobs/x").json()["code"] == "job_not_found"


def test_a_deleted_domain_takes_its_jobs_along(http, service):
    name = f"gone {uuid4().hex[:6]}"
    http.post("/v1/domains", json={"name": name}).raise_for_status()
    with paused_worker(service):
        job = upload(http, name, zip_of(("Ana/1.png", photos(1)[0]))).json()["id"]
        http.delete(f"/v1/domains/{name}").raise_for_status()
    assert http.get(f"/v1/jobs/{job}").json()["code"] == "job_not_found"
    assert "facedex_jobs_waiting 0" in http.get("/metrics").text


def test_commands_import_a_folder_and_look_after_jobs(http, domain, service, tmp_path):
    (tmp_path / "Ana").mkdir()
    (tmp_path / "Ana" / "1.png").write_bytes(FACE)
    (tmp_path / "Ana" / "notes.txt").write_text("no picture")
    with paused_worker(service):
        job = service.flask("import", domain, str(tmp_path)).stdout.strip()
        assert "cancelled" in service.flask("jobs", "cancel", job).stdout
        assert "queued" in service.flask("jobs", "retry", job).stdout
    assert ended(http, job)["state"] == "succeeded"
    shown = service.flask("jobs", "show", job).stdout
    assert "1 enrolled, 1 rejected" in shown
    assert "Ana/notes.txt" in shown
    (listed,) = json.loads(service.flask("jobs", "list", "--domain", domain, "--json").stdout)
    assert (listed["id"], listed["created_by"]) == (job, "cli")
    assert service.flask("jobs", "show", "x", check=False).returncode == 1
