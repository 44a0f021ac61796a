"""Erasing: the database first, with a note, then every other place; whatever happens in between."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.event import listen
from sqlalchemy.orm import Session

from app.cli.doctor import _erasures as examine_erasures
from app.config import Settings
from app.datasets.forgetting import DatasetForgetting
from app.datasets.store import DatasetStore
from app.db.domains import Gallery, create_domain, find_domain, load_gallery, lock_domain
from app.db.job_files import NewFile, store_files
from app.db.jobs import enqueue
from app.db.models import Erasure, FaceRejection, GalleryChange, IdempotentRequest, Person
from app.db.session import Database
from app.db.session_models import FaceSession
from app.db.templates import insert_templates
from app.db.vectors import SearchOptions, search
from app.deadline import Deadline
from app.enrolment.images import ImageStore
from app.enrolment.merging import MergeService
from app.enrolment.persons import PersonChange, PersonService, add_person
from app.erasure.answers import of_who_is_there
from app.erasure.places import StoredPictures, Subject
from app.erasure.service import ErasureService
from app.errors import DatabaseUnavailable, DatasetNotWritten, DatasetUnavailable, DomainNotFound, PersonNotFound
from app.recognition.pkl import PklRecognition
from app.tenancy import Reach, acting, everything
from app.vision.packs import PackStore
from tests.db_server import Maker, noisy_copies, random_units, template
from tests.deepface_files import dataset, vectors

OPTIONS = SearchOptions(top_k=5, threshold=2.0, margin=0.0, exact_max_rows=10_000, ef_search=40)
PHOTO = b"\xff\xd8\xff\xe0" + b"photo" * 100


@pytest.fixture
def people(make_gallery: Maker, database: Database, images: ImageStore) -> Gallery:
    """p0 with three templates, p1 and p2 with one each; a stored picture for every template."""
    gallery = make_gallery("people", random_units(5, 8), [0, 0, 0, 1, 2])
    with database.transaction() as session:
        uid = find_domain(session, "people").uid
        rows = session.execute(text("SELECT person_id, id FROM face_embeddings")).all()
    for person_id, face_id in rows:
        with images.staged(uid, PHOTO) as picture:
            picture.place(person_id, face_id)
    return gallery


def labels(database: Database, gallery: Gallery, probe: np.ndarray) -> set[str]:
    with database.transaction() as session:
        (found,) = search(session, load_gallery(session, gallery.name), [probe], OPTIONS)
    return {hit.label for hit in found.persons}


def person_id(database: Database, label: str) -> UUID:
    with database.transaction() as session:
        return session.scalars(text("SELECT id FROM persons WHERE label = :label"), {"label": label}).one()


def files(settings: Settings) -> list[Path]:
    return [path for path in settings.images_dir.rglob("*") if path.is_file()]


def table(database: Database, name: str) -> list:
    with database.transaction() as session:
        return session.execute(text(f"SELECT * FROM {name}")).all()


def test_everything_of_the_person_goes_and_a_receipt_comes(
    erasure: ErasureService, database: Database, people: Gallery, storage: Settings
) -> None:
    erased = person_id(database, "p0")
    with acting(Reach("key-1", frozenset({"people"}), frozenset({people.domain_id}))):
        receipt = erasure.erase("people", "p0")
    assert (receipt.person_id, receipt.domain, receipt.requested_by) == (erased, "people", "key-1")
    nothing_of = {"rejections": 0, "reference_photos": 0, "sessions": 0, "kept_answers": 0, "job_files": 0}
    assert receipt.counts == {"templates": 3, "pictures": 3} | nothing_of
    assert receipt.is_finished
    assert receipt.as_json()["deleted"] == str(erased)
    assert receipt.as_json()["embeddings"] == 3
    assert labels(database, people, random_units(5, 8)[0]) == {"p1", "p2"}
    assert len(files(storage)) == 2
    with database.transaction() as session:
        assert load_gallery(session, "people").template_count == 2
        tombstone = session.get_one(GalleryChange, (people.domain_id, erased))
        assert tombstone.version == session.scalar(text("SELECT gallery_version FROM domains"))
        note = session.get_one(Erasure, receipt.id)
        assert (note.labels, note.pending) == ([], [])
        assert note.finished_at is not None
        (body,) = session.scalars(text("SELECT body FROM audit_events WHERE body LIKE '%person.erased%'"))
    assert str(erased) in body
    assert str(receipt.id) in body
    assert "p0" not in body.replace(str(erased), "")


def test_who_is_erased_is_not_found_again(erasure: ErasureService, people: Gallery) -> None:
    erasure.erase("people", "p0")
    for domain, label, error in (
        ("people", "p0", PersonNotFound),
        ("people", "nobody", PersonNotFound),
        ("nowhere", "p1", DomainNotFound),
    ):
        with pytest.raises(error):
            erasure.erase(domain, label)


def test_who_is_no_person_yet_does_not_come_back(
    erasure: ErasureService, database: Database, datasets: DatasetStore, people: Gallery, storage: Settings
) -> None:
    dataset(storage.pkl_dir / "people", {"p0": vectors(2), "Eva": vectors(2, 1)})
    datasets.open("people", wait_s=60)
    with database.transaction() as session:
        files = [NewFile("Eva", "Eva/1.jpg", b"sha", b"picture"), NewFile("Ana", "Ana/1.jpg", b"sha", b"picture")]
        store_files(session, enqueue(session, "import", domain_id=people.domain_id), people.domain_id, files)
        for label in ("Eva", "Ana"):
            kept = FaceSession(
                domain_id=people.domain_id,
                kind="enrol",
                label=label,
                created_by="x",
                token_sha256=b"x",
                limits={},
                expires_at=datetime.now(UTC) + timedelta(minutes=1),
            )
            session.add(kept)
        answer = IdempotentRequest(
            client="c", key="k", domain_id=people.domain_id, fingerprint=b"f", status=201, body=b'{"label": "Eva"}'
        )
        session.add(answer)
    receipt = erasure.erase("people", "Eva")
    assert (receipt.person_id, receipt.is_finished) == (None, True)
    assert receipt.counts == {"sessions": 1, "job_files": 1, "kept_answers": 1, "dataset_rows": 2}
    assert [row.label for row in table(database, "job_files")] == ["Ana"]
    assert [row.label for row in table(database, "face_sessions")] == ["Ana"]
    assert len(table(database, "persons")) == 3
    assert len(events_of(database, str(receipt.id))) == 1
    with pytest.raises(PersonNotFound):
        erasure.erase("people", "Eva")


def events_of(database: Database, receipt: str) -> list:
    return [row for row in table(database, "audit_events") if receipt in row.body and "Eva" not in row.body]


def test_by_id_it_is_the_same_person(erasure: ErasureService, database: Database, people: Gallery) -> None:
    wanted = person_id(database, "p1")
    assert erasure.erase("people", str(wanted)).person_id == wanted


def test_another_tenant_erases_nobody(erasure: ErasureService, database: Database, people: Gallery) -> None:
    with acting(Reach("key-2", frozenset({"others"}))), pytest.raises(DomainNotFound):
        erasure.erase("people", "p0")
    assert len(table(database, "persons")) == 3


def test_what_was_said_of_their_face_goes_both_ways(erasure: ErasureService, database: Database) -> None:
    faces = random_units(4, 128)
    near = noisy_copies(faces, 0.2)  # distance about 0.02; the pack's threshold is 0.07
    with database.transaction() as session:
        # The model's own threshold tells whose face it is.
        domain = create_domain(session, "people", model="dlib", contract="x", dimension=128)
        persons = [add_person(session, domain.id, f"p{n}", f"p{n}") for n in range(4)]
        insert_templates(session, domain.id, [template(p.id, face) for p, face in zip(persons, faces, strict=True)])

        def reject(person: int, actual: int | None, face: np.ndarray) -> UUID:
            row = FaceRejection(
                domain_id=domain.id,
                person_id=persons[person].id,
                actual_person_id=None if actual is None else persons[actual].id,
                image_sha256=uuid4().bytes,
                created_by="x",
                embedding=face,
            )
            session.add(row)
            session.flush()
            return row.id

        reject(0, 1, faces[3])
        reject(1, 0, faces[3])
        reject(2, None, near[0])
        kept = {reject(2, 3, near[3]), reject(1, None, near[2])}
    assert erasure.erase("people", "p0").counts["rejections"] == 3
    assert {row.id for row in table(database, "face_rejections")} == kept


def test_kept_answers_tell_of_them_no_more_and_of_others_as_before(
    erasure: ErasureService, database: Database, people: Gallery
) -> None:
    bodies = {
        "label": b'{"person": {"label": "p0", "display_name": "x"}}',
        "id": f'{{"detail": "person {person_id(database, "p0")}"}}'.encode(),
        "problem": b'{"detail": "A person labelled \'p0\' exists already in this domain."}',
        "not json": b"p0 was here",
        "another": b'{"person": {"label": "p00", "display_name": "up0n"}}',
        "in work": None,
    }
    with database.transaction() as session:
        for key, body in bodies.items():
            session.add(
                IdempotentRequest(
                    client="c", key=key, domain_id=people.domain_id, fingerprint=b"f", status=body and 201, body=body
                )
            )
    receipt = erasure.erase("people", "p0")
    assert receipt.counts["kept_answers"] == 4
    found = {row.key: row for row in table(database, "idempotent_requests")}
    assert found.keys() == bodies.keys()  # the keys stay: nothing is carried out twice
    assert {key for key, row in found.items() if row.status == 410} == {"label", "id", "problem", "not json"}
    assert all(b"p0" not in row.body for row in found.values() if row.status == 410)
    assert (found["another"].status, found["in work"].body) == (201, None)


def test_an_enrolment_that_only_warned_of_them_is_answered_as_before_without_the_warning(
    erasure: ErasureService, database: Database, people: Gallery
) -> None:
    def warning(label: str) -> dict:
        return {
            "code": "resembles_other",
            "person": {"id": str(uuid4()), "label": label, "name": label},
            "distance": 0.1,
        }

    def result(label: str, *like: str) -> dict:
        face = {"id": "f1", "person": {"label": label}}
        return {"file": "1.jpg", "status": "enrolled", "face": face, "warnings": list(map(warning, like))}

    answers = {
        "with metadata": {"person": {"label": "p1", "metadata": {"warnings": ["p0"]}}, "results": [result("p1")]},
        "of another": {"person": {"label": "p1"}, "results": [result("p1", "p0", "p2"), result("p1", "p0")]},
        "of them": {"person": {"label": "p0"}, "results": [result("p0", "p0")]},
    }
    with database.transaction() as session:
        for key, answer in answers.items():
            body = json.dumps(answer).encode()
            row = IdempotentRequest(
                client="c", key=key, domain_id=people.domain_id, fingerprint=b"f", status=201, headers={}, body=body
            )
            session.add(row)
    assert erasure.erase("people", "p0").counts["kept_answers"] == 3
    found = {row.key: row for row in table(database, "idempotent_requests")}
    statuses = {key: row.status for key, row in found.items()}
    assert statuses == {"with metadata": 410, "of them": 410, "of another": 201}
    for one in answers["of another"]["results"]:
        one["warnings"] = [left for left in one["warnings"] if left["person"]["label"] != "p0"]
    assert json.loads(found["of another"].body) == answers["of another"]


def test_a_warning_of_whoever_was_erased_before_the_answer_is_kept_is_not_kept(
    erasure: ErasureService, database: Database, people: Gallery
) -> None:
    def answer(*labels: str) -> bytes:
        warned = [{"code": "resembles_other", "person": {"id": ids[label], "label": label}} for label in labels]
        return json.dumps({"results": [{"face": {"id": "f"}, "warnings": warned}, {"status": "rejected"}]}).encode()

    def labels(body: bytes) -> list[str]:
        return [warning["person"]["label"] for warning in json.loads(body)["results"][0]["warnings"]]

    ids = {label: str(person_id(database, label)) for label in ("p0", "p1", "p2")}
    erasure.erase("people", "p0")
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            assert of_who_is_there(session, "people", answer()) == answer()
            assert of_who_is_there(session, "no such domain", answer("p0")) == answer("p0")
            body = of_who_is_there(session, "people", answer("p0", "p1", "p2"))
            assert labels(body) == ["p1", "p2"]
            with acting(everything("test")):
                later = pool.submit(copy_context().run, erasure.erase, "people", "p1")
            with pytest.raises(TimeoutError):  # it takes its turn after the answer
                later.result(timeout=0.5)
            row = {"client": "c", "key": "k", "domain_id": people.domain_id, "fingerprint": b"f", "status": 201}
            session.add(IdempotentRequest(**row, headers={}, body=body))
        assert later.result(timeout=30).counts["kept_answers"] == 1
    [kept] = table(database, "idempotent_requests")
    assert (kept.status, labels(kept.body)) == (201, ["p2"])


def test_a_label_that_is_a_word_of_the_api_closes_no_answers_of_others(
    erasure: ErasureService, database: Database, people: Gallery
) -> None:
    bodies = {"others": b'{"person": {"id": "1", "label": "p9"}}', "own": b'{"person": {"id": "2", "label": "id"}}'}
    with database.transaction() as session:
        add_person(session, people.domain_id, "id", "id")
        for key, body in bodies.items():
            session.add(
                IdempotentRequest(
                    client="c", key=key, domain_id=people.domain_id, fingerprint=b"f", status=201, body=body
                )
            )
    assert erasure.erase("people", "id").counts["kept_answers"] == 1
    assert {row.key: row.status for row in table(database, "idempotent_requests")} == {"others": 201, "own": 410}


def test_names_that_json_escapes_are_found_in_kept_answers(
    erasure: ErasureService, database: Database, people: Gallery
) -> None:
    name = 'Živa "Ž" \\ O\'Neil'
    answers = [
        (json.dumps({"label": name}), None),
        (json.dumps({"label": name}, ensure_ascii=False), None),
        ("{}", {"Location": f"/v1/domains/people/persons/{quote(name, safe='')}"}),
    ]
    with database.transaction() as session:
        add_person(session, people.domain_id, name, name)
        for number, (body, headers) in enumerate(answers):
            request = IdempotentRequest(
                client="c",
                key=str(number),
                domain_id=people.domain_id,
                fingerprint=b"f",
                status=201,
                headers=headers,
                body=body.encode(),
            )
            session.add(request)
    assert erasure.erase("people", name).counts["kept_answers"] == 3


def test_a_dataset_loses_them_too_and_answers_for_the_others(
    erasure: ErasureService, database: Database, datasets: DatasetStore, storage: Settings, people: Gallery
) -> None:
    own = vectors(4)
    dataset(storage.pkl_dir / "people", {"p0": own[:2], "Ana": own[2:]})
    gallery = PklRecognition(datasets).open("people", Deadline.after(60))
    assert set(gallery.dataset.labels) == {"p0", "Ana"}
    receipt = erasure.erase("people", "p0")
    assert receipt.counts["dataset_rows"] == 2
    assert receipt.is_finished
    assert datasets.open("people", wait_s=0).labels == ("Ana",)
    everything = b"".join(path.read_bytes() for path in storage.pkl_dir.rglob("*") if path.is_file())
    # As a folder of a path, and as a label; two bytes alone are among the numbers by chance.
    assert b"p0/" not in everything
    assert b'"p0"' not in everything
    assert all(vector.astype("<f4").tobytes() not in everything for vector in own[:2])
    with database.transaction() as session:
        assert session.get_one(Erasure, receipt.id).labels == []


def test_what_a_dataset_calls_by_a_former_label_goes_unless_somebody_else_is_called_so_now(
    erasure: ErasureService, datasets: DatasetStore, storage: Settings, database: Database, people: Gallery
) -> None:
    persons = PersonService(database)
    merging = MergeService(database, ImageStore(storage.images_dir, enabled=False))
    dataset(storage.pkl_dir / "people", {label: vectors(1, n) for n, label in enumerate(("p0", "p1", "p2", "Eva"))})
    persons.update("people", "p0", PersonChange(label="Ana"))
    persons.update("people", "p1", PersonChange(label="Bor"))
    merging.merge("people", "Ana", "Bor")
    persons.update("people", "Ana", PersonChange(label="Cene"))
    persons.create("people", "p1", None)
    receipt = erasure.erase("people", "Cene")
    assert receipt.counts["dataset_rows"] == 1
    assert receipt.is_finished
    (told,) = [entry for entry in receipt.remains if entry.place == "dataset_rows"]
    assert "p1" not in told.why
    assert datasets.open("people", wait_s=60).labels == ("Eva", "p1", "p2")


def test_a_dataset_of_them_alone_answers_no_more(
    erasure: ErasureService, datasets: DatasetStore, storage: Settings, people: Gallery
) -> None:
    dataset(storage.pkl_dir / "people", {"p0": vectors(2)})
    assert datasets.open("people", wait_s=60).labels == ("p0",)
    assert erasure.erase("people", "p0").is_finished
    with pytest.raises(DatasetUnavailable):
        datasets.open("people", wait_s=60)
    assert list(storage.pkl_dir.rglob("*.npy")) == []


def test_whom_only_a_dataset_knows_is_erased_from_it(
    erasure: ErasureService, datasets: DatasetStore, storage: Settings, database: Database
) -> None:
    dataset(storage.pkl_dir / "ours", {"Ana": vectors(2), "Eva": vectors(2, 1)})
    datasets.open("ours", wait_s=60)
    with acting(Reach("key", frozenset({"others"}))), pytest.raises(DomainNotFound):
        erasure.erase("ours", "Ana")
    receipt = erasure.erase("ours", "Ana")
    assert (receipt.person_id, receipt.counts) == (None, {"dataset_rows": 2})
    assert datasets.open("ours", wait_s=60).labels == ("Eva",)
    with pytest.raises(DomainNotFound):
        erasure.erase("ours", "Ana")
    (event,) = table(database, "audit_events")
    assert str(receipt.id) in event.body


def test_what_cannot_be_rewritten_is_told_noted_and_taken_up(
    erasure: ErasureService,
    datasets: DatasetStore,
    database: Database,
    storage: Settings,
    people: Gallery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset(storage.pkl_dir / "people", {"p0": vectors(2), "Ana": vectors(2, 1)})

    def full(*_: object, **__: object) -> int:
        raise DatasetNotWritten("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr("app.datasets.forgetting.remove_in_process", full)
        receipt = erasure.erase("people", "p0")
        assert not receipt.is_finished
        assert [(entry.place, entry.why) for entry in receipt.unfinished] == [("dataset_rows", "The disk is full.")]
        assert not erasure.finish()[0].is_finished
        (finding,) = examine_erasures(SimpleNamespace(database=database))
        assert (finding.says.split(":")[0], finding.cure) == ("1 not finished", "flask erase --finish")
    (finished,) = erasure.finish()
    assert examine_erasures(SimpleNamespace(database=database)) == []
    assert (finished.id, finished.is_finished) == (receipt.id, True)
    assert finished.counts["dataset_rows"] == 2
    assert erasure.finish() == []
    assert datasets.open("people", wait_s=60).labels == ("Ana",)
    (note,) = table(database, "erasures")
    assert note.labels == []


def test_what_is_taken_up_later_erases_nobody_who_came_meanwhile(
    erasure: ErasureService,
    datasets: DatasetStore,
    database: Database,
    storage: Settings,
    people: Gallery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset(storage.pkl_dir / "people", {"p0": vectors(2), "Ana": vectors(2, 1)})
    with monkeypatch.context() as patched:
        patched.setattr("app.datasets.forgetting.remove_in_process", _full)
        receipt = erasure.erase("people", "p0")
        assert [entry.place for entry in receipt.remains] == ["database_files", "backups", "audit"]
    PersonService(database).create("people", "p0", None)
    (finished,) = erasure.finish()
    assert (finished.id, finished.is_finished, finished.counts["dataset_rows"]) == (receipt.id, True, 0)
    assert finished.remains[0].place == "dataset_rows"
    assert datasets.open("people", wait_s=60).labels == ("Ana", "p0")


def _full(*_: object, **__: object) -> int:
    raise DatasetNotWritten("The disk is full.")


def test_pictures_that_did_not_follow_in_a_merge_go_as_well(
    erasure: ErasureService,
    images: ImageStore,
    database: Database,
    storage: Settings,
    people: Gallery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    merging = MergeService(database, images)
    with monkeypatch.context() as patched:
        patched.setattr(ImageStore, "move_person", refuse)
        merging.merge("people", "p1", "p0")
        merging.merge("people", "p2", "p1")
    receipt = erasure.erase("people", "p2")
    assert receipt.is_finished
    assert receipt.counts["pictures"] == 5
    assert files(storage) == []
    (note,) = table(database, "erasures")
    assert note.former_ids == []


def test_a_broken_dataset_stops_serving_them(
    erasure: ErasureService, datasets: DatasetStore, storage: Settings, people: Gallery
) -> None:
    file = dataset(storage.pkl_dir / "people", {"p0": vectors(2), "Ana": vectors(2, 1)})
    datasets.open("people", wait_s=60)
    file.write_bytes(b"\x80\x04cos\nsystem\n.")
    receipt = erasure.erase("people", "p0")
    assert [entry.place for entry in receipt.unfinished] == ["dataset_rows"]
    with pytest.raises(DatasetUnavailable):  # the version from before would go on serving, were they not in it
        datasets.open("people", wait_s=60)


def test_with_the_database_away_nothing_is_half_done(
    storage: Settings, datasets: DatasetStore, images: ImageStore, people: Gallery
) -> None:
    away = Database(storage.model_copy(update={"vector_db_url": None, "storage_dir": storage.storage_dir / "none"}))
    service = ErasureService(away, PackStore(storage.models_dir), DatasetForgetting(storage, datasets), images)
    with pytest.raises(DatabaseUnavailable):
        service.erase("people", "p0")
    assert len(files(storage)) == 5


class _Dying:
    """A place whose process is killed when its turn comes."""

    place = StoredPictures.place

    def __init__(self, images: ImageStore) -> None:
        self.concerns = StoredPictures(images).concerns

    def erase(self, subject: Subject) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def _erase_and_die(erasure: ErasureService, images: ImageStore) -> None:
    erasure._places = (_Dying(images),)
    erasure.erase("people", "p0")


def test_a_process_that_is_killed_after_the_commit_has_lost_nothing(
    erasure: ErasureService, images: ImageStore, database: Database, storage: Settings, people: Gallery
) -> None:
    child = multiprocessing.get_context("fork").Process(target=_erase_and_die, args=(erasure, images))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert labels(database, people, random_units(5, 8)[0]) == {"p1", "p2"}
    assert len(files(storage)) == 5
    (note,) = table(database, "erasures")
    assert (note.pending, note.labels) == (["pictures"], ["p0"])
    (receipt,) = erasure.finish()
    assert receipt.is_finished
    assert receipt.counts["pictures"] == 3
    assert len(files(storage)) == 2
    assert table(database, "erasures")[0].labels == []


def test_enrolling_and_erasing_the_same_label_at_once_leaves_no_stray_picture(
    erasure: ErasureService, images: ImageStore, database: Database, storage: Settings, people: Gallery
) -> None:
    with database.transaction() as session:
        uid = find_domain(session, "people").uid
    units = random_units(200, 8, seed=3)
    stop = threading.Event()

    def enrol(first: int) -> None:
        with acting(everything("test")):
            for n in range(first, first + 60):
                with images.staged(uid, PHOTO) as picture, database.transaction() as session:
                    lock_domain(session, people.domain_id)
                    person = session.query(Person).filter_by(label="new").one_or_none()
                    person = person or add_person(session, people.domain_id, "new", "new")
                    made = template(person.id, units[n])
                    insert_templates(session, people.domain_id, [made])
                    picture.place(person.id, made.id)

    def erase() -> int:
        count = 0
        with acting(everything("test")):
            while not stop.is_set():
                try:
                    assert erasure.erase("people", "new").is_finished
                    count += 1
                except PersonNotFound:
                    pass
        return count

    with ThreadPoolExecutor(4) as threads:
        erasing = [threads.submit(erase) for _ in range(2)]
        enrolling = [threads.submit(enrol, first) for first in (0, 60)]
        for future in enrolling:
            future.result()
        stop.set()
        assert sum(future.result() for future in erasing) > 0
    known = {str(row.id) for row in table(database, "face_embeddings")}
    assert {path.name for path in files(storage)} == known
    assert all(note.finished_at for note in table(database, "erasures"))


def test_a_deleted_domain_takes_its_pictures_and_keeps_its_dataset(
    erasure: ErasureService, storage: Settings, people: Gallery, database: Database
) -> None:
    file = dataset(storage.pkl_dir / "people", {"p0": vectors(2)})
    receipt = erasure.erase_domain("people")
    assert receipt.counts == {"persons": 3, "templates": 5, "reference_photos": 0, "pictures": 5}
    assert receipt.as_json()["deleted"] == "people"
    assert files(storage) == []
    assert file.exists()
    assert table(database, "persons") == []
    with pytest.raises(DomainNotFound):
        erasure.erase_domain("people")


def test_a_deleted_domain_takes_its_dataset_where_that_is_asked_for(
    erasure: ErasureService, datasets: DatasetStore, storage: Settings, people: Gallery
) -> None:
    dataset(storage.pkl_dir / "people", {"p0": vectors(2)})
    datasets.open("people", wait_s=60)
    receipt = erasure.erase_domain("people", with_dataset=True)
    assert receipt.is_finished
    assert receipt.counts["dataset_rows"] == 2
    assert [path for path in storage.pkl_dir.rglob("*") if path.is_file()] == []


def test_pictures_without_a_template_are_swept_once_they_are_old(
    erasure: ErasureService, images: ImageStore, storage: Settings, people: Gallery, database: Database
) -> None:
    with database.transaction() as session:
        uid = find_domain(session, "people").uid
    p1 = person_id(database, "p1")
    with images.staged(uid, PHOTO) as fresh:
        fresh.place(p1, uuid4())
    with images.staged(uid, PHOTO) as old:
        old.place(p1, uuid4())
    with images.staged(uuid4(), PHOTO) as of_no_domain:
        of_no_domain.place(p1, uuid4())
    assert fresh.path is not None
    assert old.path is not None
    os.utime(old.path, (0, 0))
    assert erasure.sweep() == 2
    assert len(files(storage)) == 6
    assert fresh.path.exists()
    assert not old.path.exists()


def test_a_sweep_asks_once_for_each_person_in_a_transaction_of_its_own(
    erasure: ErasureService, images: ImageStore, storage: Settings, people: Gallery, database: Database
) -> None:
    with database.transaction() as session:
        (uid,) = session.scalars(text("SELECT uid FROM domains"))
    p1, p2 = person_id(database, "p1"), person_id(database, "p2")
    images.move_person(uid, p1, p2)  # as a merge, of which the database knows nothing, would have left them
    statements: list[str] = []

    def note(*arguments: object) -> None:
        if "face_embeddings" in str(arguments[2]):
            statements.append(str(arguments[2]))

    listen(database.engine, "before_cursor_execute", note)
    transactions: list[None] = []

    @contextmanager
    def counted() -> Iterator[Session]:
        transactions.append(None)
        with database.transaction() as session:
            yield session

    assert images.sweep(counted) == 0
    assert len(transactions) == 3  # the domain, p0, and p2 with p1's
    assert len(statements) == 3  # of p2 twice: what is to follow is looked at again under the lock
    assert {path.parent.name for path in files(storage)} == {str(person_id(database, f"p{n}")) for n in range(3)}
