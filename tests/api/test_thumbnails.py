"""Small pictures on real requests to the application, over a real database: who gets them, and when they are gone.

What a worker of the pool does is done in this process; `tests/service/test_erasure.py` has them made by the pool.
"""

import io
import os
import threading
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from PIL import Image
from sqlalchemy import text, update

from app.api.wiring import build_app
from app.config import Settings
from app.db.models import FaceEmbedding
from app.db.session import Database
from app.embedder.client import EmbedderClient
from app.enrolment import images
from app.enrolment.images import ImageStore, thumbnail_of
from app.errors import PoolBusy
from app.keys.admin_key import create_admin_key
from app.tenancy import everything, set_reach
from app.vision.faces import Box
from app.vision.thumbnails import make_thumbnail
from tests import pictures
from tests.db_server import Maker, random_units

PERSONS = "/v1/domains/people/persons"
PHOTO = pictures.encode(Image.effect_noise((400, 300), 60).convert("RGB"), quality=90)


class Workers:
    """What workers do, counted."""

    def __init__(self) -> None:
        self.made = 0
        self.before = lambda: None

    def make(self, image: bytes, box: Box) -> bytes:
        self.made += 1
        small = make_thumbnail(image, box, max_pixels=pictures.MAX_PIXELS)
        self.before()
        return small


@pytest.fixture
def workers(monkeypatch) -> Workers:
    made = Workers()
    monkeypatch.setattr(EmbedderClient, "thumbnail", lambda _self, image, box, **_others: made.make(image, box))
    return made


@pytest.fixture
def settings(database_settings: Settings, make_gallery: Maker, tmp_path: Path, models: Path) -> Settings:
    make_gallery("people", random_units(3, 8), [0, 0, 1])
    make_gallery("others", random_units(1, 8), [0])
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "pkl").mkdir()
    made = database_settings.model_copy(update={"storage_dir": tmp_path})
    create_admin_key(made.admin_key_file)
    return made


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    return ImageStore(settings.images_dir, enabled=True)


@pytest.fixture
def app(settings: Settings, workers: Workers):
    app = build_app(settings)
    yield app
    app.extensions["facedex"].database.close()
    set_reach(everything("test"))


@pytest.fixture
def send(app, tmp_path: Path):
    secret = (tmp_path / "admin.key").read_text().strip()

    def send(method: str, path: str, *, key: str = secret, **options):
        headers = {"x-api-key": key} | options.pop("headers", {})
        answer = app.test_client().open(path, method=method, headers=headers, **options)
        answer.get_data()
        return answer

    return send


@pytest.fixture
def kept(database: Database, store: ImageStore) -> dict[str, Path]:
    """p0's two faces, of which the second is the surer one, and p1's one, by id: the files of their pictures."""
    set_reach(everything("test"))
    found = {}
    with database.transaction() as session:
        session.execute(update(FaceEmbedding).values(box_x=150, box_y=100, box_w=80, box_h=90))
        query = text(
            "SELECT d.uid, f.person_id, f.id FROM face_embeddings f JOIN domains d ON d.id = f.domain_id"
            " JOIN persons p ON p.id = f.person_id WHERE d.name = 'people' ORDER BY p.label, f.created_at, f.id"
        )
        for number, (uid, person_id, face_id) in enumerate(session.execute(query)):
            with store.staged(uid, PHOTO) as picture:
                picture.place(person_id, face_id)
            session.execute(update(FaceEmbedding).where(FaceEmbedding.id == face_id).values(score=0.1 * (1 + number)))
            found[str(face_id)] = store.path(uid, person_id, face_id)
    return found


def everything_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_face_and_a_person_are_shown_small_and_made_once(send, kept, workers: Workers) -> None:
    first, second, _ = kept
    answer = send("GET", f"{PERSONS}/p0/faces/{first}/thumbnail")
    assert (answer.status_code, answer.content_type) == (200, "image/webp")
    assert Image.open(io.BytesIO(answer.data)).size == (128, 128)
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert send("GET", f"{PERSONS}/p0/faces/{first}/thumbnail").data == answer.data
    assert workers.made == 1
    portrait = send("GET", f"{PERSONS}/p0/thumbnail")
    assert portrait.headers["ETag"] == send("GET", f"{PERSONS}/p0/faces/{second}/thumbnail").headers["ETag"]
    assert workers.made == 2


def test_who_has_it_already_is_told_so_without_a_worker_and_only_while_it_is_there(
    send, kept, workers: Workers
) -> None:
    first, *_ = kept
    path = f"{PERSONS}/p0/faces/{first}/thumbnail"
    etag = send("GET", path).headers["ETag"]
    thumbnail_of(kept[first]).unlink()
    again = send("GET", path, headers={"If-None-Match": etag})
    assert (again.status_code, again.data, workers.made) == (304, b"", 1)
    assert again.headers["ETag"] == etag
    assert send("GET", path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert send("DELETE", f"{PERSONS}/p0/faces/{first}").status_code == 204
    assert send("GET", path, headers={"If-None-Match": etag}).status_code == 404


def test_without_a_picture_there_is_none(send, kept) -> None:
    for picture in kept.values():
        picture.unlink()
    for path in (f"{PERSONS}/p0/thumbnail", *(f"{PERSONS}/p0/faces/{face}/thumbnail" for face in kept)):
        answer = send("GET", path)
        assert (answer.status_code, answer.json["code"]) == (404, "face_not_found")
    assert [person["has_image"] for person in send("GET", PERSONS).json["items"]] == [False, False]


def test_it_is_for_nobody_else(send, kept, settings: Settings) -> None:
    first, *_, other = kept
    for path in (
        f"{PERSONS}/p0/faces/{other}/thumbnail",
        f"{PERSONS}/p1/faces/{first}/thumbnail",
        f"{PERSONS}/p0/faces/{uuid4()}/thumbnail",
        f"{PERSONS}/p0/faces/nonsense/thumbnail",
        f"/v1/domains/others/persons/p0/faces/{first}/thumbnail",
        "/v1/domains/others/persons/p0/thumbnail",
        f"{PERSONS}/nobody/thumbnail",
        "/v1/domains/nowhere/persons/p0/thumbnail",
    ):
        assert send("GET", path).status_code == 404, path
    keys = {
        scope: send("POST", "/v1/keys", json={"name": scope, "domains": domains, "scopes": [scope]}).json["key"]
        for scope, domains in (("recognize", ["people"]), ("verify", ["people"]), ("enrol", ["others"]))
    }
    for scope, key in keys.items():
        answer = send("GET", f"{PERSONS}/p0/thumbnail", key=key)
        assert answer.status_code == (404 if scope == "enrol" else 403), scope
    assert everything_under(settings.images_dir) == {path.name for path in kept.values()}


def test_a_pool_that_is_busy_is_said_to_be(send, kept, workers: Workers) -> None:
    def busy() -> None:
        raise PoolBusy("All workers are busy.")

    workers.before = busy
    assert send("GET", f"{PERSONS}/p0/thumbnail").status_code == 503
    workers.before = lambda: None
    assert send("GET", f"{PERSONS}/p0/thumbnail").status_code == 200


@pytest.mark.parametrize("method", ["face", "person", "domain"])
def test_what_is_deleted_takes_its_small_picture_along(send, kept, settings: Settings, method: str) -> None:
    for face in list(kept)[:2]:
        assert send("GET", f"{PERSONS}/p0/faces/{face}/thumbnail").status_code == 200
    first = kept[next(iter(kept))]
    assert thumbnail_of(first).exists()
    path = {
        "face": f"{PERSONS}/p0/faces/{first.name}",
        "person": f"{PERSONS}/p0",
        "domain": "/v1/domains/people",
    }[method]
    answer = send("DELETE", path)
    if method != "face":
        assert answer.json["counts"]["pictures"] == (2 if method == "person" else 3)
        assert (answer.json["state"], answer.json["unfinished"]) == ("finished", [])
    gone = {"face": [first.name], "person": [path.name for path in list(kept.values())[:2]], "domain": list(kept)}[
        method
    ]
    assert not [name for name in everything_under(settings.images_dir) if name.startswith(tuple(gone))]


def test_it_follows_the_face_when_persons_are_merged(send, kept) -> None:
    first, *_ = kept
    before = send("GET", f"{PERSONS}/p0/faces/{first}/thumbnail").data
    assert send("POST", f"{PERSONS}/p1/merge", json={"from": "p0"}).status_code == 200
    assert not kept[first].parent.exists()
    assert send("GET", f"{PERSONS}/p1/faces/{first}/thumbnail").data == before


@pytest.mark.parametrize("erased", [True, False])
def test_one_that_is_made_while_its_face_is_deleted_is_not_kept(
    send, kept, workers: Workers, settings: Settings, erased: bool
) -> None:
    """In the worst moment: the worker has the picture, and answers when everything is gone."""
    first, *_ = kept
    path = f"{PERSONS}/p0" if erased else f"{PERSONS}/p0/faces/{first}"
    workers.before = lambda: threading.Thread(target=lambda: _in_time(send, path, done)).start() or done.wait(30)
    done = threading.Event()
    assert send("GET", f"{PERSONS}/p0/faces/{first}/thumbnail").status_code == 200
    assert done.is_set()
    assert not [name for name in everything_under(settings.images_dir) if first in name or name.startswith(".part")]


def _in_time(send, path: str, done: threading.Event) -> None:
    try:
        assert send("DELETE", path).status_code in (200, 204)
    finally:
        done.set()


def test_an_erasure_goes_on_where_one_is_put_into_the_folder_meanwhile(store: ImageStore, kept, monkeypatch) -> None:
    first, *_ = kept
    picture = kept[first]
    remove, tries = images.shutil.rmtree, []

    def interrupted(folder: Path) -> None:
        tries.append(folder)
        if len(tries) == 1:
            picture.unlink()
            thumbnail_of(picture).write_bytes(b"late")
            folder.rmdir()  # what rmtree does last: it fails, as it would
        remove(folder)

    monkeypatch.setattr(images.shutil, "rmtree", interrupted)
    uid, person_id = (UUID(part) for part in picture.parts[-3:-1])
    assert store.remove_person(uid, person_id) == 2
    assert not picture.parent.exists()
    assert len(tries) == 2


def test_a_sweep_keeps_those_of_pictures_and_no_others(send, kept, settings: Settings, database: Database) -> None:
    first, second, _ = kept
    for face in (first, second):
        assert send("GET", f"{PERSONS}/p0/faces/{face}/thumbnail").status_code == 200
    for path in settings.images_dir.rglob("*"):
        os.utime(path, (1, 1))
    kept[second].unlink()
    set_reach(everything("test"))
    store = ImageStore(settings.images_dir, enabled=True)
    assert store.sweep(database.transaction) == 0
    assert thumbnail_of(kept[first]).exists()
    assert not thumbnail_of(kept[second]).exists()
