"""Reference photos: each becomes a template once, whoever looks at it; and none brings anybody back."""

import io
import json
import multiprocessing
import os
import random
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.event import listen

from app.config import Settings
from app.db.models import Person
from app.db.references import claim_photo, end_failed
from app.deadline import Deadline
from app.enrolment import photo_rows
from app.enrolment.persons import PersonDetails
from app.erasure.export import PersonExport
from app.errors import (
    DomainNotFound,
    EmbedderUnavailable,
    EmptyUpload,
    FacedexError,
    ImageQuarantined,
    InvalidImage,
    InvalidMetadata,
    InvalidRequest,
    PersonExists,
    PersonNotFound,
    PoolBusy,
    ReferencePhotoNotFound,
    TooManyReferencePhotos,
    UnsupportedImage,
    UploadTooLarge,
    WorkerTimeout,
)
from app.tenancy import Reach, acting, carried
from app.vision.packs import PackStore
from tests import pictures
from tests.enrolment.album import Album, make_album, photo
from tests.enrolment.conftest import Office
from tests.enrolment.drawn import axis, between

OLD = photo(axis(0))


@pytest.fixture
def album(office: Office, database_settings: Settings, models, tmp_path) -> Album:
    office.persons.create("people", "Ana", None)
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    return make_album(office, settings, PackStore(models))


@pytest.fixture
def keeping(album: Album, models) -> Album:
    """An album where enrolled pictures are kept."""
    return make_album(album.office, album.settings, PackStore(models), store_images=True)


def fails(error: FacedexError) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_photo_waits_with_a_job_and_becomes_a_face(album: Album) -> None:
    (waiting,) = album.add("Ana", OLD)
    assert (waiting.state, waiting.face_id, waiting.attempts) == ("waiting", None, 0)
    assert album.pictures() == [OLD]
    person = album.office.persons.get("people", "Ana")
    assert (person.faces, person.reference_photos.waiting, person.reference_photos.total) == (0, 1, 1)
    (job,) = album.rows("SELECT kind, person_id, total, created_by FROM jobs WHERE id = :id", id=waiting.job_id)
    assert tuple(job) == ("reference_photo", person.id, 1, "test")
    assert album.run_job(waiting.job_id) == {"waiting": 0, "extracted": 1, "failed": 0}
    (found,) = album.photos("Ana")
    assert (found.state, found.strategy, found.warnings, found.error_code) == ("extracted", "drawn", (), None)
    assert album.pictures() == [None]
    (face,) = album.office.faces.list("people", "Ana", limit=5, cursor=None).items
    assert (face.id, face.image_sha256) == (found.face_id, found.image_sha256)
    assert album.office.labels(axis(0)) == ["Ana"]
    (asked,) = album.pool.asked
    assert (asked["effort"], asked["background"], asked["client"]) == ("thorough", True, "test")
    assert album.office.events()[-2:] == ["reference_photo.added", "face.enrolled"]


def test_the_same_picture_again_is_the_same_photo(album: Album) -> None:
    (first,) = album.add("Ana", OLD)
    again = album.service.add("people", "Ana", [("x", OLD)])
    assert (again.photos, again.job_id) == ((first,), None)
    both = album.service.add("people", "Ana", [("x", OLD), ("y", photo(axis(1))), ("z", OLD)])
    assert [entry.image_sha256 for entry in both.photos][:1] == [first.image_sha256]
    assert len(both.photos) == 2
    assert both.job_id not in (None, first.job_id)
    album.run_job(first.job_id)
    album.run_job(both.job_id)
    assert album.service.add("people", "Ana", [("x", OLD)]).job_id is None
    assert album.templates() == 2
    assert len(album.pool.asked) == 2


def test_a_photo_whose_job_is_over_gets_another(album: Album) -> None:
    (first,) = album.add("Ana", OLD)
    album.execute("UPDATE jobs SET state = 'cancelled', finished_at = now()")
    (again,) = album.add("Ana", OLD)
    assert again.id == first.id
    assert again.job_id != first.job_id
    album.run_job(first.job_id)
    assert album.photos("Ana")[0].state == "waiting"
    album.run_job(again.job_id)
    assert album.photos("Ana")[0].state == "extracted"


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (photo(), "no_face"),
        (photo(axis(0), axis(1)), "several_faces"),
        (photo(axis(0), size=24), "face_too_small"),
        (photo(axis(0), contract="another:8:0"), "contract_mismatch"),
    ],
)
def test_a_photo_that_cannot_be_used_says_why_and_is_kept(album: Album, picture: bytes, code: str) -> None:
    (failed,) = album.extracted("Ana", picture)
    assert (failed.state, failed.error_code, failed.face_id, failed.strategy) == ("failed", code, None, None)
    assert failed.error_message
    assert album.pictures() == [picture]
    assert album.templates() == 0
    assert album.preload("Ana").extractions == ()
    assert album.office.events()[-1] == "reference_photo.failed"
    # A better model may find somebody: sent again, or asked for, it is tried again.
    assert album.preload("Ana", failed=True).extractions[0].photo.error_code == code
    (again,) = album.add("Ana", picture)
    assert (again.id, again.state, again.error_code) == (failed.id, "waiting", None)
    album.run_job(again.job_id)
    assert len(album.pool.asked) == 3


def test_a_picture_in_quarantine_fails(album: Album) -> None:
    album.pool.before = fails(ImageQuarantined("Workers have died of it."))
    (failed,) = album.extracted("Ana", OLD)
    assert (failed.state, failed.error_code) == ("failed", "image_quarantined")


def test_a_small_or_blurred_old_photo_is_better_than_none_and_says_so(album: Album) -> None:
    album.pool.sharpness = 0.0
    small, blurred = album.extracted("Ana", photo(axis(0), size=25), photo(axis(1)))
    assert (small.state, small.warnings) == ("extracted", ("face_too_small", "face_blurred"))
    assert (blurred.state, blurred.warnings) == ("extracted", ("face_blurred",))


def test_whom_else_a_photo_resembles_is_told_without_saying_who(album: Album) -> None:
    album.office.enrol("Bor", axis(0))
    (found,) = album.extracted("Ana", photo(between(axis(0), axis(1), 0.03)))
    assert found.warnings == ("resembles_other",)


def test_a_photo_that_is_enrolled_already_is_that_face(album: Album) -> None:
    enrolled = album.office.faces.enrol("people", "Ana", [("a", OLD[3:])], client="test").outcomes[0].face
    (found,) = album.extracted("Ana", photo(axis(0), salt=1))
    assert (found.state, found.face_id, found.warnings) == ("extracted", enrolled.id, ("duplicate",))
    assert album.pictures() == [None]
    assert album.templates() == 1
    album.service.delete("people", "Ana", str(found.id))
    assert album.templates() == 1  # which was not the photo's


def test_deleting_a_photo_takes_its_face_along(keeping: Album) -> None:
    found, other = keeping.extracted("Ana", OLD, photo(axis(1)))
    files = [path for path in keeping.settings.images_dir.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {str(found.face_id), str(other.face_id)}
    assert {path.read_bytes() for path in files} == {OLD, photo(axis(1))}
    keeping.service.delete("people", "Ana", str(found.id))
    assert [entry.id for entry in keeping.photos("Ana")] == [other.id]
    assert keeping.templates() == 1
    assert [path.name for path in keeping.settings.images_dir.rglob("*") if path.is_file()] == [str(other.face_id)]
    assert keeping.office.events()[-1] == "reference_photo.deleted"
    for label, photo_id in (("Ana", str(found.id)), ("Ana", "x"), ("Bor", str(other.id))):
        if label == "Bor":
            keeping.office.persons.create("people", "Bor", None)
        with pytest.raises(ReferencePhotoNotFound):
            keeping.service.delete("people", label, photo_id)


def test_a_photo_whose_face_was_deleted_can_be_sent_again(album: Album) -> None:
    (found,) = album.extracted("Ana", OLD)
    album.office.faces.delete("people", "Ana", str(found.face_id))
    (gone,) = album.photos("Ana")
    assert (gone.state, gone.face_id) == ("extracted", None)
    (again,) = album.extracted("Ana", OLD)
    assert (again.id, again.state) == (found.id, "extracted")
    assert again.face_id not in (None, found.face_id)
    assert album.templates() == 1


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyUpload),
        (b"no picture", InvalidImage),
        (pictures.animated_gif(), UnsupportedImage),
        (b"\xff\xd8\xff" + bytes(64 * 1024), UploadTooLarge),
    ],
)
def test_what_is_no_picture_is_refused_and_what_came_with_it_is_not_kept(
    album: Album, data: bytes, error: type[FacedexError]
) -> None:
    album.service._settings = album.settings.model_copy(update={"max_upload_bytes": 64 * 1024})
    with pytest.raises(error):
        album.add("Ana", data)
    with pytest.raises(error, match=r"'1\.jpg'"):
        album.add("Ana", OLD, data)
    with pytest.raises(error):
        album.service.register("people", "Bor", None, PersonDetails(), [("a", OLD), ("b", data)])
    assert album.photos("Ana") == []
    assert album.rows("SELECT 1 FROM jobs") == []
    with pytest.raises(PersonNotFound):
        album.office.persons.get("people", "Bor")


def test_nobodys_photos_are_not_kept(album: Album) -> None:
    with album.office.database.transaction() as session:
        own = session.scalar(select(Person.domain_id).limit(1))
    for domain, label, error in (("people", "Bor", PersonNotFound), ("nowhere", "Ana", DomainNotFound)):
        with pytest.raises(error):
            album.service.add(domain, label, [("a", OLD)])
        with pytest.raises(error):
            album.service.preload(domain, label, deadline=Deadline.after(1), client="test")
        with pytest.raises(error):
            album.service.list(domain, label, limit=5, cursor=None)
    with acting(Reach("key-2", frozenset({"others"}), frozenset({own + 1}))), pytest.raises(DomainNotFound):
        album.add("Ana", OLD)
    assert album.pictures() == []


def test_a_person_has_a_bounded_number(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_rows, "MAX_PHOTOS_PER_PERSON", 2)
    album.add("Ana", OLD)
    with pytest.raises(TooManyReferencePhotos):
        album.add("Ana", photo(axis(1)), photo(axis(2)))
    album.add("Ana", OLD, photo(axis(1)))
    assert len(album.photos("Ana")) == 2


def test_a_person_is_made_with_photos_or_not_at_all(album: Album) -> None:
    details = PersonDetails(external_id="R-1")
    made = album.service.register("people", "Bor", None, details, [("a", OLD)])
    assert (made.person.label, made.person.reference_photos.waiting) == ("Bor", 1)
    album.run_job(made.job_id)
    assert album.office.persons.get("people", "R-1").faces == 1
    for label, details, error in (
        ("Bor", PersonDetails(), PersonExists),
        ("Cene", PersonDetails(metadata={"a": "x" * 20_000}), InvalidMetadata),
    ):
        with pytest.raises(error):
            album.service.register("people", label, None, details, [("a", OLD)])
    assert len(album.pictures()) == 1


def test_photos_are_listed_in_pages_in_the_order_in_which_they_came(album: Album) -> None:
    sent = album.add("Ana", *(photo(axis(n)) for n in range(5)))
    seen, cursor = [], None
    while True:
        page = album.service.list("people", "Ana", limit=2, cursor=cursor)
        seen += page.items
        if (cursor := page.next_cursor) is None:
            break
    assert seen == sent
    with pytest.raises(InvalidRequest):
        album.service.list("people", "Ana", limit=2, cursor="x")


def test_preloading_does_it_now_and_again_changes_nothing(album: Album) -> None:
    album.add("Ana", OLD, photo(), photo(axis(1)))
    told = album.preload("Ana")
    assert [entry.photo.state for entry in told.extractions] == ["extracted", "failed", "extracted"]
    assert told.error is None
    assert album.preload("Ana").extractions == ()
    assert len(album.pool.asked) == 3
    assert not album.pool.asked[0]["background"]
    counts = album.office.persons.get("people", "Ana").reference_photos
    assert (counts.waiting, counts.extracted, counts.failed) == (0, 2, 1)


def test_what_cannot_be_done_now_waits_and_says_why(album: Album) -> None:
    (waiting,) = album.add("Ana", OLD)
    album.pool.before = fails(PoolBusy("The queue is full."))
    told = album.preload("Ana")
    assert told.error.code == "pool_busy"
    (found,) = album.photos("Ana")
    assert (found.state, found.error_code, found.attempts) == ("waiting", "pool_busy", 1)
    with pytest.raises(PoolBusy):
        album.run_job(waiting.job_id)
    assert album.pictures() == [OLD]
    album.pool.before = lambda: None
    album.run_job(waiting.job_id)
    (found,) = album.photos("Ana")
    assert (found.state, found.error_code, found.attempts) == ("extracted", None, 3)


@pytest.mark.parametrize(("error", "tried"), [(EmbedderUnavailable("away"), 1), (WorkerTimeout("slow"), 3)])
def test_a_job_goes_on_behind_a_photo_that_is_to_blame_and_not_where_nothing_would_come_of_it(
    album: Album, error: FacedexError, tried: int
) -> None:
    job = album.add("Ana", OLD, photo(axis(1)), photo(axis(2)))[0].job_id
    album.pool.before = fails(error)
    with pytest.raises(type(error)):
        album.run_job(job)
    assert len(album.pool.asked) == tried


def test_an_error_that_nobody_foresaw_gives_the_photo_back(album: Album) -> None:
    album.add("Ana", OLD)
    album.pool.before = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        album.preload("Ana")
    album.pool.before = lambda: None
    assert album.preload("Ana").extractions[0].photo.state == "extracted"


def test_two_at_once_extract_once_and_who_comes_second_is_told(album: Album, monkeypatch) -> None:
    (waiting,) = album.add("Ana", OLD)
    at_work, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        at_work.set()
        assert go_on.wait(60)

    album.pool.before = wait
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(carried(album.preload), "Ana")
        assert at_work.wait(60)
        with pytest.raises(PoolBusy, match="elsewhere"):  # the job is tried again later
            album.run_job(waiting.job_id)
        assert album.preload("Ana", seconds=0.05).error.code == "pool_busy"
        usual, began = album.service._extract_all, threading.Semaphore(0)
        monkeypatch.setattr(album.service, "_extract_all", lambda *given: (began.release(), usual(*given))[1])
        others = [threads.submit(carried(album.preload), "Ana") for _ in range(2)]
        for _ in others:  # each has seen that the photo waits
            assert began.acquire(timeout=60)
        go_on.set()
        told = [future.result().extractions for future in (first, *others)]
    assert [entry.photo.state for (entry,) in told] == ["extracted"] * 3
    assert len(album.pool.asked) == 1
    assert album.templates() == 1


def test_of_two_who_both_believe_it_theirs_one_stores(album: Album) -> None:
    (waiting,) = album.add("Ana", OLD)
    (domain_id,) = album.rows("SELECT domain_id FROM reference_photos")[0]
    with album.office.database.transaction() as session:
        late = claim_photo(session, domain_id, waiting.id, lease_s=-1)  # has run out
    assert album.preload("Ana").extractions[0].photo.state == "extracted"
    with album.office.database.transaction() as session:
        assert end_failed(session, late, "no_face", "") is None
    assert album.photos("Ana")[0].state == "extracted"
    # And the other way round: who is late has looked, and stores nothing.
    (second,) = album.add("Ana", photo(axis(1)))
    album.pool.before = lambda: album.execute(
        "UPDATE reference_photos SET attempts = attempts + 1 WHERE id = :id", id=second.id
    )
    assert album.preload("Ana").extractions[0].photo.state == "waiting"
    assert album.templates() == 1


def _die_at(album: Album, statement: int) -> None:
    """Extract, and be killed before that statement is sent."""
    sent = [0]

    def count(*_: object) -> None:
        sent[0] += 1
        if sent[0] == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    listen(album.office.database.engine, "before_cursor_execute", count)
    listen(album.office.database.engine, "commit", count)
    album.preload("Ana")


def test_whoever_is_killed_anywhere_it_becomes_one_face(keeping: Album) -> None:
    keeping.add("Ana", OLD)
    fork = multiprocessing.get_context("fork")
    killed = 0
    while True:
        child = fork.Process(target=_die_at, args=(keeping, killed + 1))
        child.start()
        child.join(60)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        assert keeping.templates() in (0, 1)
        (found,) = keeping.photos("Ana")
        assert (found.state == "extracted") == (keeping.templates() == 1) == (keeping.pictures() == [None])
        if found.state == "extracted":  # killed after the commit; the rest of the kills begin anew
            break
        keeping.execute("UPDATE reference_photos SET claimed_until = now()")  # the claim runs out by itself
    assert killed > 10
    keeping.preload("Ana")
    assert keeping.photos("Ana")[0].state == "extracted"
    assert keeping.templates() == 1
    assert keeping.office.labels(axis(0)) == ["Ana"]


def test_a_claim_that_nobody_ends_runs_out(album: Album) -> None:
    (waiting,) = album.add("Ana", OLD)
    (domain_id,) = album.rows("SELECT domain_id FROM reference_photos")[0]
    with album.office.database.transaction() as session:
        assert claim_photo(session, domain_id, waiting.id, lease_s=3600) is not None
        assert claim_photo(session, domain_id, waiting.id, lease_s=3600) is None
    (left,) = album.rows("SELECT claimed_until - now() FROM reference_photos")[0]
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    album.execute("UPDATE reference_photos SET claimed_until = now() - interval '1 second'")
    assert album.preload("Ana").extractions[0].photo.state == "extracted"


def test_who_is_erased_while_their_photo_is_looked_at_does_not_come_back(keeping: Album) -> None:
    keeping.add("Ana", OLD, photo(axis(1)))
    keeping.pool.before = lambda: keeping.pool.asked[1:] or keeping.erasure.erase("people", "Ana")
    told = keeping.preload("Ana")
    assert told.extractions == ()
    assert keeping.templates() == 0
    assert (
        keeping.rows("SELECT 1 FROM persons UNION ALL SELECT 1 FROM reference_photos UNION ALL SELECT 1 FROM jobs")
        == []
    )
    assert [path for path in keeping.settings.images_dir.rglob("*") if path.is_file()] == []
    assert keeping.office.labels(axis(0)) == []


def test_erasing_and_extracting_at_once_leaves_nobody(keeping: Album) -> None:
    counted = []
    for n in range(12):
        label = f"P{n}"
        keeping.office.persons.create("people", label, None)
        keeping.add(label, photo(axis(n % 8), salt=n))
        pause_s = random.Random(n).uniform(0, 0.03)

        def erase(label: str = label, pause_s: float = pause_s) -> int:
            time.sleep(pause_s)
            return keeping.erasure.erase("people", label).counts["templates"]

        with ThreadPoolExecutor(2) as threads:
            erased = threads.submit(carried(erase))
            extracted = threads.submit(carried(keeping.preload), label)
            counted.append(erased.result())
            extracted.exception()  # they may be gone before it begins
        assert keeping.templates() == 0
    assert keeping.rows("SELECT label FROM persons") == [("Ana",)]
    assert keeping.pictures() == []
    assert [path for path in keeping.settings.images_dir.rglob("*") if path.is_file()] == []
    assert set(counted) <= {0, 1}


def test_a_receipt_counts_the_photos(album: Album) -> None:
    album.extracted("Ana", OLD, photo())
    album.add("Ana", photo(axis(2)))
    assert album.erasure.erase("people", "Ana").counts["reference_photos"] == 3
    album.office.persons.create("people", "Bor", None)
    album.add("Bor", OLD)
    assert album.erasure.erase_domain("people").counts["reference_photos"] == 1
    assert album.pictures() == []


def test_photos_follow_in_a_merge(album: Album) -> None:
    album.office.persons.create("people", "Bor", None)
    shared, mine, theirs, waiting = (photo(axis(n)) for n in range(4))
    album.extracted("Ana", shared, mine)
    album.extracted("Bor", shared, theirs)
    (unfinished,) = album.add("Bor", waiting)
    album.office.merging.merge("people", "Ana", "Bor")
    found = album.photos("Ana")
    assert [entry.state for entry in found] == ["extracted", "extracted", "extracted", "waiting"]
    faces = {face.id for face in album.office.faces.list("people", "Ana", limit=9, cursor=None).items}
    assert {entry.face_id for entry in found} == {*faces, None}
    album.run_job(unfinished.job_id)  # its job has not gone with Bor
    assert album.photos("Ana")[-1].state == "extracted"
    assert album.templates() == 4
    assert album.office.labels(axis(3)) == ["Ana"]


def test_of_a_merge_while_a_photo_is_looked_at_the_face_is_the_remaining_persons(album: Album) -> None:
    album.office.persons.create("people", "Bor", None)
    album.add("Bor", OLD)
    album.pool.before = lambda: album.office.merging.merge("people", "Ana", "Bor")
    (told,) = album.preload("Bor").extractions
    assert told.photo.state == "extracted"
    assert album.office.persons.get("people", "Ana").faces == 1


def test_a_face_that_the_remaining_person_had_is_not_deleted_with_the_others_photo(album: Album) -> None:
    own = album.office.faces.enrol("people", "Ana", [("a", OLD[3:])], client="test").outcomes[0].face
    album.office.persons.create("people", "Bor", None)
    (theirs,) = album.extracted("Bor", photo(axis(0), salt=1), photo(axis(1)))[:1]
    # The same picture by its digest, as where pool and photo see the same bytes.
    album.execute("UPDATE reference_photos SET image_sha256 = f.image_sha256 FROM face_embeddings AS f"
                  " WHERE f.id = :own AND reference_photos.id = :id", own=own.id, id=theirs.id)  # fmt: skip
    album.execute("UPDATE face_embeddings SET image_sha256 = (SELECT image_sha256 FROM face_embeddings WHERE id = :own)"
                  " WHERE id = :id", own=own.id, id=theirs.face_id)  # fmt: skip
    album.office.merging.merge("people", "Ana", "Bor")
    shared, moved = album.photos("Ana")
    assert (shared.face_id, "duplicate" in shared.warnings) == (own.id, True)
    assert "duplicate" not in moved.warnings
    for entry in (shared, moved):
        album.service.delete("people", "Ana", str(entry.id))
    assert [face.id for face in album.office.faces.list("people", "Ana", limit=9, cursor=None).items] == [own.id]


def test_deleting_a_photo_makes_what_was_extracted_for_the_domain_out_of_date(album: Album) -> None:
    def epoch() -> int:
        return album.rows("SELECT cache_epoch FROM domains WHERE name = 'people'")[0][0]

    (waiting,) = album.add("Ana", OLD)
    before = epoch()
    album.service.delete("people", "Ana", str(waiting.id))
    assert epoch() == before
    (found,) = album.extracted("Ana", OLD)
    before = epoch()
    album.service.delete("people", "Ana", str(found.id))
    assert epoch() == before + 1


def test_a_job_goes_on_with_what_could_not_be_preloaded_once_more(album: Album) -> None:
    (failed,) = album.extracted("Ana", photo())
    album.execute("UPDATE jobs SET state = 'succeeded', finished_at = now()")
    (waiting,) = album.add("Ana", OLD)
    album.pool.before = fails(PoolBusy("The queue is full."))
    album.preload("Ana", failed=True)
    again, other = album.photos("Ana")
    assert (again.state, other.state) == ("waiting", "waiting")
    assert other.job_id == waiting.job_id  # which runs still
    assert again.job_id not in (failed.job_id, waiting.job_id)
    assert album.rows("SELECT total, state FROM jobs WHERE id = :id", id=again.job_id) == [(1, "queued")]
    album.preload("Ana", failed=True)
    assert album.rows("SELECT count(*) FROM jobs WHERE state = 'queued'") == [(2,)]
    album.pool.before = lambda: None
    assert album.run_job(again.job_id) == {"waiting": 0, "extracted": 0, "failed": 1}


def test_a_session_is_prepared_only_for_whom_nothing_is_known(album: Album) -> None:
    def prepare() -> bool:
        return album.service.preload_where_needed("people", "Ana", deadline=Deadline.after(30), client="test")

    assert not prepare()
    album.add("Ana", photo())
    assert not prepare()
    album.add("Ana", OLD)
    album.pool.before = fails(WorkerTimeout("slow"))
    assert [prepare() for _ in range(5)] == [False] * 5
    assert len(album.pool.asked) == 4  # it gives up on a photo that is tried in vain each time
    album.pool.before = lambda: None
    album.add("Ana", photo(axis(1)))
    assert prepare()
    album.add("Ana", photo(axis(2)))
    assert not prepare()
    assert album.office.persons.get("people", "Ana").reference_photos.waiting == 2


def test_all_that_wait_are_found_of_one_domain_or_of_all(album: Album) -> None:
    album.office.persons.create("others", "Bor", None)
    album.service.add("others", "Bor", [("a", OLD)])
    album.extracted("Ana", photo())
    album.add("Ana", photo(axis(1)))
    everything = album.service.waiting()
    assert [entry.domain for entry in everything] == ["others", "people"]
    assert len(album.service.waiting(failed=True)) == 3
    assert [entry.domain for entry in album.service.waiting("people")] == ["people"]
    with pytest.raises(DomainNotFound):
        album.service.waiting("nowhere")
    with acting(Reach("key", frozenset({"people"}), frozenset({everything[1].domain_id}))):
        assert [entry.domain for entry in album.service.waiting()] == ["people"]
    for entry in everything:
        assert album.service.extract(entry, client="test").photo.state == "extracted"


def test_an_export_has_what_is_kept_of_the_photos(album: Album) -> None:
    album.extracted("Ana", OLD, photo())
    target = io.BytesIO()
    PersonExport(album.office.database, album.images).write("people", "Ana", target)
    archive = zipfile.ZipFile(target)
    done, failed = json.loads(archive.read("person.json"))["reference_photos"]
    assert (done["state"], done["image"], done["strategy"]) == ("extracted", None, "drawn")
    assert (failed["state"], failed["error_code"]) == ("failed", "no_face")
    assert archive.read(failed["image"]) == photo()
    assert failed["image"] == f"reference_photos/{failed['id']}.jpg"
