"""The event of a recognition ends the transaction of its search; whatever becomes of the one leaves the other as it is."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.audit.log import AuditLog, Noted
from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database, fetch_raw
from app.deadline import Deadline
from app.recognition.pgvector import PgvectorGallery, PgvectorRecognition
from app.recognition.service import SearchQuery
from app.tenancy import carried
from tests.db_server import Maker, contract, random_units

QUERY = SearchQuery(contract=contract(64), top_k=5, threshold=0.4, margin=0.03)
UNITS = random_units(50, 64)
DETAILS = {"faces": 1}


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker()


@pytest.fixture
def opened(database_settings: Settings, database: Database, breaker: CircuitBreaker, make_gallery: Maker):
    make_gallery("people", UNITS)
    return PgvectorRecognition(database_settings, database, breaker).open("people", Deadline.after(30))


@pytest.fixture
def audit(database_settings: Settings, database: Database, breaker: CircuitBreaker, tmp_path) -> AuditLog:
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    return AuditLog(settings, database, breaker)


def events(database: Database) -> int:
    with database.transaction() as session:
        return fetch_raw(session, "SELECT count(*) FROM audit_events WHERE body LIKE '%%recognition.answered%%'", {})[
            0
        ][0]


def look(opened: PgvectorGallery):
    return opened.searched([UNITS[3]], QUERY, Deadline.after(30))


def test_the_event_is_there_once_it_was_noted(opened, audit, database) -> None:
    for number in range(1, 4):
        with look(opened) as hits:
            assert audit.note("recognition.answered", DETAILS, domain="people") is Noted.STORED
            assert events(database) == number  # another connection sees it: the transaction is over
        assert len(hits) == 1


def test_an_event_that_fails_takes_nothing_from_the_answer(opened, audit, database) -> None:
    with database.maintenance() as connection:
        connection.exec_driver_sql("ALTER TABLE audit_events ADD CONSTRAINT broken CHECK (seq < 0) NOT VALID")
    try:
        with look(opened) as hits:
            assert audit.note("recognition.answered", DETAILS, domain="people") is Noted.SPOOLED
    finally:
        with database.maintenance() as connection:
            connection.exec_driver_sql("ALTER TABLE audit_events DROP CONSTRAINT broken")
    assert hits[0].candidates
    with look(opened):
        assert audit.note("recognition.answered", DETAILS, domain="people") is Noted.STORED


def test_a_connection_that_is_lost_after_the_search_takes_nothing_from_the_answer(opened, audit, database) -> None:
    with look(opened) as hits, database.maintenance() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        assert audit.note("recognition.answered", DETAILS, domain="people") is not Noted.LOST
    assert hits[0].candidates
    with look(opened) as again:
        assert again == hits


def test_a_search_without_an_event_leaves_no_transaction_behind(opened, database) -> None:
    with look(opened):
        pass
    with pytest.raises(RuntimeError), look(opened):
        raise RuntimeError("on purpose")
    with database.maintenance() as connection:
        rows = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        assert rows.scalar_one() == 0


def test_an_event_of_another_thread_is_a_transaction_of_its_own(opened, audit, database) -> None:
    with look(opened) as hits, ThreadPoolExecutor(1) as threads:
        noted = threads.submit(carried(audit.note), "recognition.answered", DETAILS, domain="people").result()
        assert noted is Noted.STORED
        assert audit.note("recognition.answered", DETAILS, domain="people") is Noted.STORED
    assert hits[0].candidates
    assert events(database) == 2


def test_what_the_driver_has_dropped_meanwhile_is_prepared_again(opened, audit, database) -> None:
    with look(opened):
        assert audit.note("recognition.answered", DETAILS, domain="people") is Noted.STORED
    with look(opened):
        database._here.begun.connection.execute("DEALLOCATE ALL")
        assert audit.note("recognition.answered", DETAILS, domain="people") is Noted.STORED
    assert events(database) == 2
