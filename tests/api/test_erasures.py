"""Erasing, exporting and stored pictures on real requests to the application, over a real database."""

import io
import json
import zipfile
from contextlib import ExitStack, suppress
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.api.idempotency import HEADER, REPLAYED
from app.api.wiring import build_app
from app.db.domains import create_domain
from app.db.models import Erasure
from app.db.session import Database
from app.enrolment.images import ImageStore
from app.errors import DatasetNotWritten, PoolBusy
from app.keys.admin_key import create_admin_key
from app.tenancy import acting, everything, set_reach
from tests.db_server import Maker, random_units
from tests.deepface_files import dataset, vectors

PERSONS = "/v1/domains/people/persons"
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 50


@pytest.fixture
def app(database_settings, make_gallery: Maker, tmp_path, models):
    make_gallery("people", random_units(3, 8), [0, 0, 1])
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "pkl").mkdir()
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    create_admin_key(settings.admin_key_file)
    app = build_app(settings)
    yield app
    app.extensions["facedex"].database.close()
    set_reach(everything("test"))


@pytest.fixture
def send(app, tmp_path):
    secret = (tmp_path / "admin.key").read_text().strip()

    def send(method: str, path: str, key: str | None = None, **options):
        headers = {"x-api-key": secret} | ({HEADER: key} if key else {})
        answer = app.test_client().open(path, method=method, headers=headers, **options)
        answer.get_data()
        answer.close()
        return answer

    return send


@pytest.fixture
def faces(app, database: Database) -> list[str]:
    """The faces of p0, of which the first has a picture."""
    set_reach(everything("test"))
    with database.transaction() as session:
        (uid,) = session.scalars(text("SELECT uid FROM domains"))
        query = text("SELECT e.id, p.id FROM face_embeddings e JOIN persons p ON p.id = e.person_id WHERE label = 'p0'")
        rows = session.execute(query).all()
    images = ImageStore(app.extensions["facedex"].settings.images_dir, enabled=True)
    with images.staged(uid, PNG) as picture:
        picture.place(rows[0][1], rows[0][0])
    return [str(face) for face, _ in rows]


def test_the_receipt_comes_once_for_each_key_and_again_for_the_same(send, faces, database: Database) -> None:
    first = send("DELETE", f"{PERSONS}/p0", "k1")
    again = send("DELETE", f"{PERSONS}/p0", "k1")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json == again.json
    assert again.headers[REPLAYED] == "true"
    assert first.json["state"] == "finished"
    assert first.json["embeddings"] == 2
    assert first.json["counts"]["pictures"] == 1
    assert first.json["requested_by"] == "admin"
    assert first.json["request_id"] == first.headers["X-Request-ID"]
    for answer in (send("DELETE", f"{PERSONS}/p0"), send("DELETE", f"{PERSONS}/p0", "k2")):
        assert (answer.status_code, answer.json["code"]) == (404, "person_not_found")


def test_a_repetition_takes_up_what_was_broken_off(app, send, faces, database: Database, monkeypatch) -> None:
    dataset(app.extensions["facedex"].settings.pkl_dir / "people", {"p0": vectors(2), "Ana": vectors(2, 1)})
    with monkeypatch.context() as patched:
        patched.setattr("app.datasets.forgetting.remove_in_process", _full)
        first = send("DELETE", f"{PERSONS}/p0", "k1")
    assert (first.status_code, first.json["state"]) == (200, "unfinished")
    assert first.json["unfinished"] == [{"place": "dataset_rows", "why": "The disk is full."}]
    again = send("DELETE", f"{PERSONS}/p0", "k1")
    assert (again.json["state"], again.json["receipt"]) == ("finished", first.json["receipt"])
    assert again.json["counts"] == {
        "templates": 2,
        "rejections": 0,
        "reference_photos": 0,
        "sessions": 0,
        "kept_answers": 0,
        "job_files": 0,
        "pictures": 1,
        "dataset_rows": 2,
    }
    set_reach(everything("test"))
    with database.transaction() as session:
        assert session.query(Erasure).one().finished_at is not None


def test_a_repetition_erases_nobody_who_came_later(app, send, faces, monkeypatch) -> None:
    dataset(app.extensions["facedex"].settings.pkl_dir / "people", {"p0": vectors(2)})
    with monkeypatch.context() as patched:
        patched.setattr("app.datasets.forgetting.remove_in_process", _full)
        first = send("DELETE", f"{PERSONS}/p0", "k1")
    assert first.json["state"] == "unfinished"
    made = send("POST", PERSONS, json={"label": "p0"})
    assert made.status_code == 201
    again = send("DELETE", f"{PERSONS}/p0", "k1")
    assert (again.json["receipt"], again.json["person_id"]) == (first.json["receipt"], first.json["person_id"])
    assert send("GET", f"{PERSONS}/p0").json == made.json
    assert send("DELETE", f"{PERSONS}/p0", "k2").json["person_id"] == made.json["id"]


def make_anew(send, database: Database, name: str) -> None:
    """A domain of a dataset's name: nobody but a migration makes it."""
    assert send("POST", "/v1/domains", json={"name": name}).json["code"] == "dataset_exists"
    with acting(everything("test")), database.transaction() as session:
        create_domain(session, name, model="dlib", contract="dlib:128:0", dimension=128)


def test_a_repetition_erases_no_domain_that_came_later(app, send, faces, monkeypatch, database: Database) -> None:
    dataset(app.extensions["facedex"].settings.pkl_dir / "people", {"p0": vectors(2)})
    with monkeypatch.context() as patched:
        patched.setattr("app.datasets.forgetting.DatasetForgetting.erase_domain", _full)
        first = send("DELETE", "/v1/domains/people?dataset=true", "k1")
    assert first.json["state"] == "unfinished"
    make_anew(send, database, "people")
    again = send("DELETE", "/v1/domains/people?dataset=true", "k1")
    assert (again.json["receipt"], again.json["state"]) == (first.json["receipt"], "finished")
    assert send("GET", "/v1/domains/people").status_code == 200


def test_an_erasure_from_a_dataset_leaves_threads_to_others(app, send, faces) -> None:
    parts = app.extensions["facedex"]
    with ExitStack() as held:
        with suppress(PoolBusy):
            while True:
                held.enter_context(parts.long_requests.place("admin"))
        assert send("DELETE", f"{PERSONS}/p1").status_code == 200  # there is no dataset to be rewritten
        dataset(parts.settings.pkl_dir / "people", {"p0": vectors(2)})
        refused = send("DELETE", f"{PERSONS}/p0", "k1")
        assert (refused.status_code, refused.json["code"]) == (503, PoolBusy.code)
        assert send("GET", f"{PERSONS}/p0").status_code == 200
    assert send("DELETE", f"{PERSONS}/p0", "k1").json["counts"]["dataset_rows"] == 2


def test_a_key_that_ran_out_stands_for_a_new_request(send, faces, database: Database) -> None:
    first = send("DELETE", f"{PERSONS}/p0", "k1")
    set_reach(everything("test"))
    with database.transaction() as session:
        session.execute(text("DELETE FROM idempotent_requests"))
    send("POST", PERSONS, json={"label": "p0"})
    assert send("DELETE", f"{PERSONS}/p0", "k1").json["receipt"] != first.json["receipt"]
    assert send("GET", f"{PERSONS}/p0").status_code == 404


def _full(*_, **__) -> int:
    raise DatasetNotWritten("The disk is full.")


def test_what_was_answered_about_them_is_gone(send) -> None:
    made = send("POST", PERSONS, "k1", json={"label": "Eva"})
    others = send("POST", PERSONS, "k2", json={"label": "Evald"})
    assert (made.status_code, others.status_code) == (201, 201)
    assert send("DELETE", f"{PERSONS}/Eva").json["counts"]["kept_answers"] == 1
    again = send("POST", PERSONS, "k1", json={"label": "Eva"})
    assert (again.status_code, again.json["code"]) == (410, "person_erased")
    assert send("POST", PERSONS, "k2", json={"label": "Evald"}).data == others.data
    assert send("GET", f"{PERSONS}/Eva").status_code == 404


def test_a_picture_comes_with_its_type_and_for_no_other_face(send, faces) -> None:
    answer = send("GET", f"{PERSONS}/p0/faces/{faces[0]}/image")
    assert answer.status_code == 200
    assert answer.data == PNG
    assert answer.content_type == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == f'inline; filename="{faces[0]}.png"'
    assert answer.headers["Cache-Control"] == "no-store"
    for path in (
        f"{PERSONS}/p0/faces/{faces[1]}/image",
        f"{PERSONS}/p1/faces/{faces[0]}/image",
        f"{PERSONS}/p0/faces/{uuid4()}/image",
        f"{PERSONS}/p0/faces/../../admin.key/image",
        f"{PERSONS}/p0/faces/nonsense/image",
        f"{PERSONS}/nobody/faces/{faces[0]}/image",
        f"/v1/domains/nowhere/persons/p0/faces/{faces[0]}/image",
    ):
        assert send("GET", path).status_code == 404, path
    listed = {face["id"]: face["has_image"] for face in send("GET", f"{PERSONS}/p0/faces").json["items"]}
    assert listed == {faces[0]: True, faces[1]: False}


def test_a_deleted_face_takes_its_picture_once_it_is_committed(app, send, faces) -> None:
    assert send("DELETE", f"{PERSONS}/p0/faces/{faces[0]}", "k1").status_code == 204
    folder = app.extensions["facedex"].settings.images_dir
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_an_export_is_a_zip_file_named_by_the_id(app, send, faces) -> None:
    answer = send("GET", f"{PERSONS}/p0/export")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.status_code == 200
    assert answer.content_type == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.data))
    told = json.loads(archive.read("person.json"))
    assert archive.namelist() == ["person.json", f"images/{faces[0]}.png"]
    assert answer.headers["Content-Disposition"] == f"attachment; filename={told['person']['id']}.zip"
    assert send("GET", f"{PERSONS}/nobody/export").status_code == 404
    storage = app.extensions["facedex"].settings.storage_dir
    assert [path.name for path in storage.iterdir() if path.name.startswith("tmp")] == []


def test_a_domain_goes_with_its_pictures_and_where_asked_with_its_dataset(app, send, faces, database: Database) -> None:
    settings = app.extensions["facedex"].settings
    file = dataset(settings.pkl_dir / "people", {"p0": vectors(2)})
    assert send("DELETE", "/v1/domains/people?dataset=perhaps").status_code == 422
    first = send("DELETE", "/v1/domains/people", "k1")
    assert first.json["counts"] == {"persons": 2, "templates": 3, "reference_photos": 0, "pictures": 1}
    assert first.json["deleted"] == "people"
    assert send("DELETE", "/v1/domains/people", "k1").json["receipt"] == first.json["receipt"]
    assert file.exists()
    make_anew(send, database, "people")
    assert send("DELETE", "/v1/domains/people?dataset=true").json["state"] == "finished"
    assert not file.exists()
