"""All that is held about a person, and nothing of others."""

import io
import json
import zipfile
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import object_session

from app.db.domains import find_domain
from app.db.job_files import NewFile, store_files
from app.db.jobs import enqueue
from app.db.models import FaceRejection, Person
from app.db.session import Database
from app.enrolment.images import ImageStore
from app.erasure.export import PersonExport
from app.errors import DomainNotFound, PersonNotFound
from app.tenancy import Reach, acting
from tests.db_server import Maker, random_units

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 50


def test_an_export_is_complete(database: Database, make_gallery: Maker, images: ImageStore) -> None:
    units = random_units(300, 8)
    gallery = make_gallery("people", units, [0] * 250 + [1] * 50)
    with database.transaction() as session:
        uid = find_domain(session, "people").uid
        rows = session.execute(text("SELECT id, person_id FROM face_embeddings WHERE person_id IN (SELECT id FROM persons"
                                    " WHERE label = 'p0') ORDER BY id LIMIT 2")).all()  # fmt: skip
        other = session.scalar(text("SELECT id FROM persons WHERE label = 'p1'"))
        names = ["p0", "p1", str(rows[0].person_id), "R-1"]
        files = [NewFile(name, f"{number}.jpg", b"sha", b"picture") for number, name in enumerate(names)]
        store_files(session, enqueue(session, "import", domain_id=gallery.domain_id), gallery.domain_id, files)
        session.execute(text("UPDATE persons SET external_id = 'R-1' WHERE label = 'p0'"))
        for person, actual in ((rows[0].person_id, other), (other, rows[0].person_id), (other, None)):
            session.add(
                FaceRejection(
                    domain_id=gallery.domain_id,
                    person_id=person,
                    actual_person_id=actual,
                    image_sha256=uuid4().bytes,
                    created_by="x",
                    embedding=units[299],
                )
            )
    for row in rows:
        with images.staged(uid, PNG) as picture:
            picture.place(row.person_id, row.id)
    target = io.BytesIO()
    assert PersonExport(database, images).write("people", "p0", target) == rows[0].person_id
    archive = zipfile.ZipFile(target)
    assert archive.testzip() is None
    assert set(archive.namelist()) == {"person.json", *(f"images/{row.id}.png" for row in rows)}
    told = json.loads(archive.read("person.json"))
    assert told["format"] == "facedex-person-1"
    assert told["person"]["label"] == "p0"
    assert told["domain"] == {"id": str(uid), "name": "people"}
    assert len(told["faces"]) == 250
    found = {np.array(face["embedding"], np.float32).tobytes() for face in told["faces"]}
    assert found == {unit.tobytes() for unit in units[:250]}
    assert sorted(face["image"] for face in told["faces"] if face["image"]) == sorted(archive.namelist()[1:])
    assert len(told["rejections"]) == 2
    assert [(file["file"], file["state"]) for file in told["import_files"]] == [
        ("0.jpg", "waiting"),
        ("2.jpg", "waiting"),
        ("3.jpg", "waiting"),
    ]
    assert [event["action"] for event in told["audit_events"]] == ["person.exported"]
    assert archive.read(f"images/{rows[0].id}.png") == PNG


def test_pictures_are_copied_while_no_transaction_waits_for_them(
    database: Database, make_gallery: Maker, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_gallery("people", random_units(2, 8))
    with database.transaction() as session:
        uid = find_domain(session, "people").uid
        (row,) = session.execute(text("SELECT id, person_id FROM face_embeddings LIMIT 1")).all()
    with images.staged(uid, PNG) as picture:
        picture.place(row.person_id, row.id)
    held: list[int] = []
    monkeypatch.setattr("app.erasure.export._add_picture", lambda *_: held.append(database.engine.pool.checkedout()))
    PersonExport(database, images).write("people", str(row.person_id), io.BytesIO())
    assert held == [0]


@pytest.mark.parametrize(("limit_s", "shown"), [(None, "0"), (7.0, "7s")])
def test_statements_have_the_limit_that_is_asked_for(
    limit_s: float | None,
    shown: str,
    database: Database,
    make_gallery: Maker,
    images: ImageStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_gallery("people", random_units(1, 8))
    seen: list[str] = []

    def look(person: Person) -> dict[str, str]:
        session = object_session(person)
        assert session is not None
        seen.append(session.scalar(text("SHOW statement_timeout")))
        return {}

    monkeypatch.setattr("app.erasure.export._person", look)
    PersonExport(database, images).write("people", "p0", io.BytesIO(), statement_limit_s=limit_s)
    assert seen == [shown]


def test_nobody_who_is_not_there_is_exported(database: Database, make_gallery: Maker, images: ImageStore) -> None:
    make_gallery("people", random_units(2, 8))
    export = PersonExport(database, images)
    for domain, label, error in (("people", "nobody", PersonNotFound), ("nowhere", "p0", DomainNotFound)):
        with pytest.raises(error):
            export.write(domain, label, io.BytesIO())
    with acting(Reach("key", frozenset({"others"}))), pytest.raises(DomainNotFound):
        export.write("people", "p0", io.BytesIO())
