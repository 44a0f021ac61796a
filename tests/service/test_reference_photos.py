"""Old photos over the running service: extracted in the background, at once where that is asked for, and by the command."""

import base64
import io
import json
import logging
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from app.api.wiring import build_app
from app.config import parse_settings
from tests import pictures
from tests.service.running import RunningService, eventually

pytestmark = pytest.mark.service

DOMAIN = "old photos"
PERSONS = f"/v1/domains/{DOMAIN}/persons"


@pytest.fixture(scope="module", autouse=True)
def _domain(service: RunningService):
    with service.client() as http:
        http.post("/v1/domains", json={"name": DOMAIN}).raise_for_status()
        yield
        http.delete(f"/v1/domains/{DOMAIN}").raise_for_status()


@pytest.fixture
def command(service: RunningService):
    """Commands as an operator types them, in the test's own process: each start of one takes seconds."""
    built = []

    def run(*arguments: str, **settings: str):
        app = build_app(parse_settings(storage_dir=service.storage, **settings))
        built.append(app.extensions["facedex"])
        return app.test_cli_runner().invoke(args=arguments)

    yield run
    for services in built:
        services.database.close()
    logging.getLogger().handlers.clear()


def astronaut() -> Image.Image:
    return Image.open(pictures.portrait()).convert("RGB")


def rotated() -> bytes:
    """Lying on its side, as a scanner leaves it, without a word in EXIF."""
    return pictures.encode(astronaut().rotate(90, expand=True), quality=85)


def small() -> bytes:
    """A face of some thirty pixels."""
    return pictures.encode(astronaut().resize((160, 160)), quality=90)


def cut() -> bytes:
    """The face up to the edges of its picture."""
    return pictures.encode(astronaut().crop((175, 70, 275, 190)), quality=90)


def photos_of(http: httpx.Client, label: str) -> list[dict]:
    return http.get(f"{PERSONS}/{label}/reference-photos").raise_for_status().json()["items"]


def waits(http: httpx.Client, label: str) -> bool:
    return any(photo["state"] == "waiting" for photo in photos_of(http, label))


@contextmanager
def jobs_worker_asleep(service: RunningService) -> Iterator[None]:
    """Nothing is done in the background."""
    worker, _ = service.part("-m", "app.jobs")
    worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.send_signal(signal.SIGCONT)


def recognized(http: httpx.Client) -> str | None:
    answer = http.post("/recognize", data={"domain": DOMAIN}, files={"file": pictures.portrait().read_bytes()})
    best = answer.raise_for_status().json()["best_match"]
    return best and best["person_name"]


@pytest.mark.parametrize("photo", [rotated, small, cut])
def test_who_is_registered_with_an_old_photo_is_recognised(http: httpx.Client, photo) -> None:
    label = photo.__name__
    form = {"label": label, "metadata": '{"old": true}', "external_id": ""}
    made = http.post(PERSONS, data=form, files={"file": ("old.jpg", photo())})
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["metadata"], told["external_id"], told["faces"]) == ({"old": True}, None, 0)
    assert told["reference_photos"] == {"waiting": 1, "extracted": 0, "failed": 0}
    eventually(lambda: not waits(http, label))
    (found,) = photos_of(http, label)
    assert (found["state"], found["error"]) == ("extracted", None)
    assert found["strategy"]
    person = http.get(f"{PERSONS}/{label}").json()
    assert (person["faces"], person["reference_photos"]["extracted"]) == (1, 1)
    assert recognized(http) == label
    eventually(lambda: http.get(f"/v1/jobs/{told['job_id']}").json()["state"] == "succeeded")
    job = http.get(f"/v1/jobs/{told['job_id']}").json()
    assert (job["kind"], job["done"], job["total"]) == ("reference_photo", 1, 1)
    http.delete(f"{PERSONS}/{label}").raise_for_status()
    assert recognized(http) is None


def test_a_person_comes_with_a_photo_in_json_too(http: httpx.Client) -> None:
    photo = base64.b64encode(small()).decode()
    made = http.post(PERSONS, json={"label": "Jo", "photo": photo, "metadata": {"list": [1] * 400}})
    assert made.status_code == 201, made.text
    eventually(lambda: not waits(http, "Jo"))
    assert photos_of(http, "Jo")[0]["state"] == "extracted"
    assert http.post(PERSONS, json={"label": "Jo", "photo": photo}).json()["code"] == "person_exists"
    assert http.post(PERSONS, json={"label": "Jim", "photo": "?"}).json()["code"] == "invalid_request"
    assert http.get(f"{PERSONS}/Jim").status_code == 404
    http.delete(f"{PERSONS}/Jo").raise_for_status()


def test_what_nobody_is_found_in_fails_and_is_told_of(http: httpx.Client) -> None:
    http.post(PERSONS, json={"label": "Nobody"}).raise_for_status()
    files = [("files", ("a.jpg", pictures.faceless())), ("files", ("b.jpg", rotated()))]
    sent = http.post(f"{PERSONS}/Nobody/reference-photos", files=files)
    assert sent.status_code == 202, sent.text
    assert sent.json()["person"]["label"] == "Nobody"
    eventually(lambda: not waits(http, "Nobody"))
    failed, found = photos_of(http, "Nobody")
    assert (failed["state"], failed["error"]["code"]) == ("failed", "no_face")
    assert found["state"] == "extracted"
    again = http.post(f"{PERSONS}/Nobody/reference-photos", files=files[1:])
    assert (again.status_code, again.json()["job_id"]) == (200, None)
    gone = http.delete(f"{PERSONS}/Nobody/reference-photos/{found['id']}")
    assert gone.status_code == 204
    assert http.get(f"{PERSONS}/Nobody").json()["faces"] == 0
    http.delete(f"{PERSONS}/Nobody").raise_for_status()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty_upload"),
        (b"no picture", 422, "invalid_image"),
        (pictures.animated_gif(), 415, "unsupported_image"),
        (b"\xff\xd8\xff" + bytes(33 * 1024 * 1024), 413, "upload_too_large"),
    ],
)
def test_what_is_no_picture_is_refused_at_once(http: httpx.Client, data: bytes, status: int, code: str) -> None:
    refused = http.post(PERSONS, data={"label": "Bad"}, files={"file": ("x.jpg", data)})
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert http.get(f"{PERSONS}/Bad").status_code == 404
    unknown = http.post(f"{PERSONS}/Bad/reference-photos", files={"file": ("x.jpg", small())})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "person_not_found")


def test_a_repeated_request_is_answered_as_before(service: RunningService, http: httpx.Client) -> None:
    with jobs_worker_asleep(service):
        headers = {"Idempotency-Key": "register-once"}
        answers = [
            http.post(PERSONS, data={"label": "Once"}, files={"file": ("a.jpg", small())}, headers=headers)
            for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[0].content == answers[1].content
        assert "Idempotent-Replayed" in answers[1].headers
        headers = {"Idempotency-Key": "photo-once"}
        answers = [
            http.post(f"{PERSONS}/Once/reference-photos", files={"file": ("b.jpg", rotated())}, headers=headers)
            for _ in range(2)
        ]
        assert answers[0].content == answers[1].content
        headers = {"Idempotency-Key": "preload-once"}
        answers = [http.post(f"{PERSONS}/Once/preload", headers=headers) for _ in range(2)]
        assert answers[0].json()["extracted"] == 2
        assert answers[0].content == answers[1].content
    http.delete(f"{PERSONS}/Once").raise_for_status()


def test_preloading_extracts_now_what_waits(service: RunningService, http: httpx.Client) -> None:
    with jobs_worker_asleep(service):
        http.post(PERSONS, data={"label": "Early", "external_id": "E/1"}, files={"file": small()}).raise_for_status()
        assert waits(http, "Early")
        done = http.post(f"{PERSONS}/{'E%2F1'}/preload")
        if done.status_code == 404:  # a slash cannot stand in a path: the id can
            done = http.post(f"{PERSONS}/{http.get(f'{PERSONS}/Early').json()['id']}/preload")
        told = done.raise_for_status().json()
        assert (told["status"], told["extracted"], told["waiting"]) == ("done", 1, 0)
        assert told["photos"][0]["face_id"]
        again = http.post(f"{PERSONS}/Early/preload").json()
        assert (again["status"], again["photos"]) == ("nothing_waiting", [])
    assert recognized(http) == "Early"
    http.delete(f"{PERSONS}/Early").raise_for_status()


def test_a_session_of_whom_only_a_photo_is_known_extracts_it(service: RunningService, http: httpx.Client) -> None:
    with jobs_worker_asleep(service):
        http.post(PERSONS, data={"label": "Guest"}, files={"file": pictures.faceless()}).raise_for_status()
        wanted = {"kind": "verify", "person": "Guest"}
        assert http.post(f"/v1/domains/{DOMAIN}/sessions", json=wanted).json()["code"] == "no_templates"
        http.post(f"{PERSONS}/Guest/reference-photos", files={"file": rotated()}).raise_for_status()
        headers = {"Idempotency-Key": "session-once"}
        made = [http.post(f"/v1/domains/{DOMAIN}/sessions", json=wanted, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in made] == [201, 201]
        assert (made[1].json()["id"], made[1].json()["token"]) == (made[0].json()["id"], None)
        assert http.get(f"{PERSONS}/Guest").json()["faces"] == 1
    http.delete(f"{PERSONS}/Guest").raise_for_status()


def test_a_session_that_enrols_somebody_extracts_their_photos_too(service: RunningService, http: httpx.Client) -> None:
    wanted = {"kind": "enrol", "person": "Enrolled"}
    assert http.post(f"/v1/domains/{DOMAIN}/sessions", json=wanted).status_code == 201  # nobody yet
    with jobs_worker_asleep(service):
        http.post(PERSONS, data={"label": "Enrolled"}, files={"file": pictures.faceless()}).raise_for_status()
        http.post(f"{PERSONS}/Enrolled/reference-photos", files={"file": rotated()}).raise_for_status()
        assert http.post(f"/v1/domains/{DOMAIN}/sessions", json=wanted).status_code == 201
        assert http.get(f"{PERSONS}/Enrolled").json()["faces"] == 1
    http.delete(f"{PERSONS}/Enrolled").raise_for_status()


def test_the_command_extracts_what_waits(service: RunningService, http: httpx.Client, command) -> None:
    with jobs_worker_asleep(service):
        files = [("files", ("a.jpg", small())), ("files", ("b.jpg", pictures.faceless()))]
        http.post(PERSONS, data={"label": "Bulk"}, files=files).raise_for_status()
        before = photos_of(http, "Bulk")
        assert "2 photos of 1 persons" in command("cache-embeddings", "--dry-run", "--client", DOMAIN).stdout
        assert json.loads(command("cache-embeddings", "--dry-run", "--json").stdout)["photos"] == 2
        assert photos_of(http, "Bulk") == before
        done = service.flask("cache-embeddings", "--client", DOMAIN, "--json", check=False)
        assert done.returncode == 3, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert (report["extracted"], report["failed"], report["waiting"]) == (1, 1, 0)
        assert report["problems"][0]["code"] == "no_face"
        assert command("cache-embeddings").stdout == "No reference photo waits.\n"
        again = command("cache-embeddings", "--failed")
        assert (again.exit_code, "no_face" in again.stdout) == (3, True)
        unknown = command("cache-embeddings", "--client", "nowhere")
        assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)
        assert "0 waiting, 1 extracted, 1 failed" in command("persons", "show", "Bulk", "--domain", DOMAIN).stdout
        assert "1 extracted, 1 failed" in command("domains", "show", DOMAIN).stdout
    http.delete(f"{PERSONS}/Bulk").raise_for_status()


def test_without_a_pool_the_command_says_so_and_the_photo_waits(
    service: RunningService, http: httpx.Client, command
) -> None:
    with jobs_worker_asleep(service):
        http.post(PERSONS, data={"label": "Later"}, files={"file": small()}).raise_for_status()
        refused = command("cache-embeddings", embedder_url="tcp://127.0.0.1:9")
        assert refused.exit_code == 1
        assert "worker pool is not running" in refused.stderr
        assert waits(http, "Later")
    http.delete(f"{PERSONS}/Later").raise_for_status()


def test_an_export_has_the_photo_that_is_kept(http: httpx.Client) -> None:
    data = pictures.faceless()
    http.post(PERSONS, data={"label": "Kept"}, files={"file": data}).raise_for_status()
    eventually(lambda: not waits(http, "Kept"))
    archive = zipfile.ZipFile(io.BytesIO(http.get(f"{PERSONS}/Kept/export").raise_for_status().content))
    (name,) = [name for name in archive.namelist() if name.startswith("reference_photos/")]
    assert archive.read(name) == data
    receipt = http.delete(f"{PERSONS}/Kept").raise_for_status().json()
    assert receipt["counts"]["reference_photos"] == 1
