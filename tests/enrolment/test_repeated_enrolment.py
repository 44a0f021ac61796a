"""An enrolment that is sent again with its idempotency key goes on where it was broken off, and does nothing twice."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select, text

from app.db.domains import create_domain
from app.db.idempotency import Claim, claim
from app.db.models import AuditEvent, FaceEmbedding
from app.db.session import Database
from app.enrolment.faces import EnrolmentResult, FaceService
from app.enrolment.images import ImageStore
from app.errors import DuplicateFace, FaceNotFound
from app.tenancy import carried
from tests.datasets.made_up_pool import MadeUpPool
from tests.datasets.migrating import pack

CLAIM = Claim("test", "k1", b"\x01" * 32)
FILES = [("a.jpg", b"photo a"), ("b.jpg", b"photo b"), ("c.jpg", b"photo c")]


@pytest.fixture
def pool() -> MadeUpPool:
    return MadeUpPool()


@pytest.fixture
def faces(database: Database, database_settings, pool: MadeUpPool) -> FaceService:
    manifest = pack()
    with database.transaction() as session:
        create_domain(
            session,
            "people",
            model=manifest.name,
            contract=manifest.contract.id,
            dimension=manifest.contract.dimension,
        )
        claim(session, CLAIM, keep_s=3600)
    packs = SimpleNamespace(get=lambda _name: SimpleNamespace(manifest=manifest))
    images = ImageStore(database_settings.images_dir, enabled=False)
    return FaceService(database_settings, database, pool, packs, images)  # type: ignore[arg-type]


def enrol(faces: FaceService, files=FILES, claim: Claim | None = CLAIM) -> EnrolmentResult:
    return faces.enrol("people", "Ana", files, client="test", claim=claim)


def ids(result: EnrolmentResult) -> list[object]:
    return [outcome.face.id if outcome.face else type(outcome.error) for outcome in result.outcomes]


def stored(database: Database) -> int:
    with database.transaction() as session:
        return session.scalar(select(func.count()).select_from(FaceEmbedding))


def test_a_repetition_is_answered_with_the_same_faces(database: Database, faces: FaceService, pool: MadeUpPool) -> None:
    first = enrol(faces)
    asked = len(pool.asked)
    again = enrol(faces)
    assert ids(again) == ids(first)
    assert again.person == first.person
    assert len(pool.asked) == asked  # nothing is embedded anew
    assert stored(database) == 3
    assert ids(enrol(faces, claim=None)) == [DuplicateFace] * 3


def test_what_failed_is_tried_again_and_the_rest_stays(
    database: Database, faces: FaceService, pool: MadeUpPool
) -> None:
    pool.busy = 2
    first = enrol(faces)
    assert sorted(outcome.face is None for outcome in first.outcomes) == [False, True, True]
    again = enrol(faces)
    assert [outcome.face is None for outcome in again.outcomes] == [False] * 3
    assert {outcome.face for outcome in first.outcomes if outcome.face} <= {outcome.face for outcome in again.outcomes}
    assert stored(database) == 3


def test_two_at_the_same_time_store_each_picture_once(database: Database, faces: FaceService) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = [result.result() for result in [threads.submit(carried(enrol), faces) for _ in range(4)]]
    assert {tuple(map(str, ids(result))) for result in results} == {tuple(map(str, ids(results[0])))}
    assert stored(database) == 3


def test_a_picture_that_is_there_twice_is_a_duplicate_each_time(database: Database, faces: FaceService) -> None:
    twice = [*FILES, ("d.jpg", FILES[0][1])]
    for _ in range(2):
        result = enrol(faces, twice)
        assert [outcome.face is not None for outcome in result.outcomes] == [True, True, True, False]
        assert isinstance(result.outcomes[3].error, DuplicateFace)
        assert [outcome.file for outcome in result.outcomes] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_a_face_that_was_deleted_meanwhile_is_not_enrolled_anew(database: Database, faces: FaceService) -> None:
    first = enrol(faces)
    assert first.outcomes[0].face is not None
    faces.delete("people", "Ana", str(first.outcomes[0].face.id))
    assert ids(enrol(faces)) == [FaceNotFound, *ids(first)[1:]]
    assert stored(database) == 2


def test_each_face_leaves_one_event_and_no_name(database: Database, faces: FaceService) -> None:
    for _ in range(2):
        enrol(faces)
    with database.transaction() as session:
        bodies = session.scalars(select(AuditEvent.body).where(AuditEvent.body.contains("face.enrolled"))).all()
        person = str(session.scalar(text("SELECT id FROM persons")))
    assert len(bodies) == 3
    assert all(person in body and "Ana" not in body and "a.jpg" not in body for body in bodies)
