"""A face against one person: one call of the model, one statement, nobody else looked at."""

import numpy as np
import pytest
from sqlalchemy import event, text

from app.db.breaker import CircuitBreaker
from app.db.person_distances import distances_to
from app.db.session import Database
from app.deadline import Deadline
from app.enrolment.persons import PersonChange
from app.errors import (
    ContractMismatch,
    DatabaseUnavailable,
    DomainNotFound,
    InvalidName,
    NoFaceFound,
    NoTemplates,
    PersonNotFound,
    SeveralFaces,
)
from app.tenancy import Reach, acting
from app.verification.person import PersonVerificationRequest, PersonVerificationService, Refusal
from app.vision.packs import PackStore
from tests.enrolment.drawn import THRESHOLD, DrawnPool, axis, between, draw


@pytest.fixture
def verify(office, database: Database, models):
    service = PersonVerificationService(database, CircuitBreaker(), DrawnPool(), PackStore(models))

    def verify(label: str, picture: bytes, *, domain: str = "people", threshold: float | None = None):
        return service.verify(
            PersonVerificationRequest(picture, domain, label, threshold, Deadline.after(30.0), "r1", "test")
        )

    return verify


@pytest.mark.parametrize(
    ("share", "threshold", "refusal"),
    [
        (0.5, None, None),
        (1.5, None, Refusal.NOT_ALIKE),
        (1.5, 2 * THRESHOLD, None),
        (0.5, 0.1 * THRESHOLD, Refusal.NOT_ALIKE),
    ],
)
def test_the_nearest_template_decides(office, verify, share, threshold, refusal):
    office.enrol("Ana", axis(0), axis(5))
    office.enrol("Eva", axis(1))
    found = verify("Ana", draw(between(axis(0), axis(1), share * THRESHOLD)), threshold=threshold)
    assert (found.refusal, found.verified) == (refusal, refusal is None)
    assert found.distance == pytest.approx(share * THRESHOLD, abs=1e-6)
    assert found.threshold == (threshold or THRESHOLD)
    assert (found.claimed.label, found.claimed.domain, found.claimed.distances.templates) == ("Ana", "people", 2)


def test_a_person_is_found_by_label_external_id_and_id(office, verify):
    office.enrol("Ana", axis(0))
    office.persons.update("people", "Ana", PersonChange(external_id="E7"))
    person_id = str(office.persons.get("people", "Ana").id)
    assert {verify(name, draw(axis(0))).claimed.label for name in ("Ana", " E7 ", person_id)} == {"Ana"}


def test_one_statement_beside_those_of_every_transaction(office, verify, database):
    office.enrol("Ana", axis(0))
    seen: list[str] = []

    def note(_connection, _cursor, statement, *_others):
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    verify("Ana", draw(axis(0)))
    event.remove(database.engine, "before_cursor_execute", note)
    assert [statement.split()[0] for statement in seen] == ["BEGIN;", "SELECT"]


def test_the_index_of_vectors_is_not_used(office, verify, database):
    office.enrol("Ana", *[between(axis(0), axis(1 + n % 7), 0.9 * THRESHOLD * (n + 1) / 12) for n in range(7)])
    before = _index_scans(database)
    for _ in range(3):
        verify("Ana", draw(axis(0)))
    assert _index_scans(database) == before


def test_what_was_rejected_for_the_person_is_not_theirs(office, verify):
    office.enrol("Ana", axis(0))
    wrong = draw(between(axis(0), axis(5), 0.8 * THRESHOLD), salt=9)
    assert verify("Ana", wrong).verified
    office.reject("Ana", wrong)
    assert verify("Ana", wrong).refusal is Refusal.REJECTED
    assert verify("Ana", draw(axis(0))).verified


def test_whoever_is_not_valid_now_is_not_verified(office, verify, database):
    office.enrol("Ana", axis(0))
    with database.transaction() as session:
        session.execute(text("UPDATE persons SET valid_until = now() - interval '1 second'"))
    assert verify("Ana", draw(axis(0))).refusal is Refusal.NOT_VALID


def test_what_cannot_be_compared_is_an_error(office, verify):
    office.enrol("Ana", axis(0))
    office.persons.create("people", "Eva", None)
    photo = draw(axis(0))
    for error, label, picture, domain in (
        (PersonNotFound, "nobody", photo, "people"),
        (DomainNotFound, "Ana", photo, "nowhere"),
        (PersonNotFound, "Ana", photo, "others"),
        (NoTemplates, "Eva", photo, "people"),
        (InvalidName, " ", photo, "people"),
        (NoFaceFound, "Ana", draw(), "people"),
        (SeveralFaces, "Ana", draw(axis(0), axis(1)), "people"),
        (ContractMismatch, "Ana", draw(axis(0), contract="test:8:1"), "people"),
        (ContractMismatch, "Ana", draw(np.eye(16, dtype=np.float32)[0], contract="test:16:1"), "people"),
    ):
        with pytest.raises(error):
            verify(label, picture, domain=domain)


def test_without_the_database_nobody_is_verified(office, verify, database, monkeypatch):
    office.enrol("Ana", axis(0))

    def away(*_args):
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(database, "transaction", away)
    with pytest.raises(DatabaseUnavailable):
        verify("Ana", draw(axis(0)))


def test_another_tenants_person_is_nobody(office, verify, database):
    office.enrol("Ana", axis(0))
    person = office.persons.get("people", "Ana").id
    with acting(Reach("key", frozenset({"others"}), frozenset({2}))):
        with pytest.raises(DomainNotFound):
            verify("Ana", draw(axis(0)))
        with database.transaction() as session:
            query = text("SELECT templates FROM distances_to_person(:domain, :person, :probe)")
            assert session.scalar(query, {"domain": 1, "person": person, "probe": "[1,0,0,0,0,0,0,0]"}) == 0


def test_a_person_who_is_gone_has_no_distances(office, database):
    office.enrol("Ana", axis(0))
    person = office.persons.get("people", "Ana").id
    office.erasure.erase("people", "Ana")
    with database.transaction() as session:
        assert distances_to(session, 1, person, axis(0)) is None


def _index_scans(database: Database) -> int:
    with database.transaction() as session:
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    with database.transaction() as session:
        return session.scalar(
            text("SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%hnsw%'")
        )
