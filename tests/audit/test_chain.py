"""Events in chains: nobody's gap, nobody's fork, in the transaction of the change."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import select, text

from app import audit
from app.db.models import AuditChain, AuditEvent
from app.db.session import Database
from app.errors import DomainNotFound
from app.tenancy import Reach, acting, carried
from tests.db_server import Maker, random_units


def events_of(database: Database, domain_id: int | None) -> list[AuditEvent]:
    with database.transaction() as session:
        chain = AuditChain.domain_id.is_(None) if domain_id is None else AuditChain.domain_id == domain_id
        query = select(AuditEvent).join(AuditChain, AuditChain.id == AuditEvent.chain_id).where(chain)
        return list(session.scalars(query.order_by(AuditEvent.seq)))


def assert_unbroken(database: Database, domain_id: int | None) -> list[dict]:
    found, before = [], bytes(32)
    for number, event in enumerate(events_of(database, domain_id), 1):
        body = json.loads(event.body)
        assert event.body == json.dumps(body, sort_keys=True, separators=(",", ":"))
        before = hashlib.sha256(before + event.body.encode()).digest()
        assert (event.seq, body["seq"], event.hash) == (number, number, before)
        found.append(body)
    return found


@pytest.fixture
def domain_id(make_gallery: Maker) -> int:
    return make_gallery("people", random_units(2, 8)).domain_id


def test_an_event_says_who_did_what_in_which_request(database: Database, domain_id: int) -> None:
    person = uuid4()
    with structlog.contextvars.bound_contextvars(request_id="r-1"), database.transaction() as session:
        audit.record(session, "person.created", domain_id=domain_id, persons=[person], faces=2, share=0.5, note='"ž"')
        uid = session.scalar(text("SELECT uid FROM domains WHERE id = :id"), {"id": domain_id})
    (body,) = assert_unbroken(database, domain_id)
    assert body.pop("at").endswith("Z")
    assert body == {
        "action": "person.created",
        "client": "test",
        "details": {"faces": 2, "share": 0.5, "note": '"ž"'},
        "domain": str(uid),
        "persons": [str(person)],
        "request_id": "r-1",
        "seq": 1,
    }


def test_each_domain_and_the_installation_have_a_chain_of_their_own(database: Database, make_gallery: Maker) -> None:
    ids = [make_gallery(name, random_units(1, 8)).domain_id for name in ("one", "two")]
    for number in range(3):
        for domain_id in (*ids, None):
            with database.transaction() as session:
                audit.record(session, "test.done", domain_id=domain_id, number=number)
    for domain_id in (*ids, None):
        assert [body["details"]["number"] for body in assert_unbroken(database, domain_id)] == [0, 1, 2]


def test_an_event_is_stored_with_its_change_or_not_at_all(database: Database, domain_id: int) -> None:
    with database.transaction() as session:
        audit.record(session, "test.done", domain_id=domain_id)
        session.rollback()
    assert events_of(database, domain_id) == []


def test_many_writers_leave_no_gap_and_no_fork(database: Database, domain_id: int) -> None:
    def write(number: int) -> None:
        with database.transaction() as session:
            audit.record(session, "test.done", domain_id=domain_id, number=number)
            audit.record(session, "test.done", domain_id=None, number=number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(carried(write), range(80)))
    for chain in (domain_id, None):
        numbers = [body["details"]["number"] for body in assert_unbroken(database, chain)]
        assert sorted(numbers) == list(range(80))


def test_a_tenant_writes_its_own_chain_and_the_installations(database: Database, make_gallery: Maker) -> None:
    mine, theirs = (make_gallery(name, random_units(1, 8)).domain_id for name in ("mine", "theirs"))
    with acting(Reach("key-1", frozenset({"mine"}), frozenset({mine}))):
        with database.transaction() as session:
            audit.record(session, "test.done", domain_id=mine)
            audit.record(session, "test.done", domain_id=None)
            # What was opened for the installation's chain is closed again.
            assert session.scalar(text("SELECT count(*) FROM domains")) == 1
        with pytest.raises(DomainNotFound), database.transaction() as session:
            audit.record(session, "test.done", domain_id=theirs)
        assert events_of(database, None) == []  # written, but not for a tenant to see
    assert [body["client"] for body in assert_unbroken(database, None)] == ["key-1"]
    assert events_of(database, theirs) == []


@pytest.mark.parametrize("details", [{"vector": [0.1]}, {"picture": b"x"}, {"number": float("nan")}])
def test_details_are_scalars(database: Database, domain_id: int, details: dict) -> None:
    with pytest.raises((TypeError, ValueError)), database.transaction() as session:
        audit.record(session, "test.done", domain_id=domain_id, **details)


def test_long_texts_are_cut(database: Database, domain_id: int) -> None:
    with database.transaction() as session:
        audit.record(session, "test.done", domain_id=domain_id, reason="x" * 10_000)
    assert assert_unbroken(database, domain_id)[0]["details"]["reason"] == "x" * 200
