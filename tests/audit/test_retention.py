"""Old events are taken out of the beginning of their chain, and what follows is still whole."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.audit import log as log_module
from app.audit import retention
from app.audit.chain import append
from app.audit.event import Event
from app.audit.examination import examine
from app.audit.log import AuditLog, Noted
from app.audit.reading import chain_of, snapshot
from app.audit.retention import Pruned, prune_all
from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.tenancy import NOTHING, acting
from tests.db_server import Maker, random_units


@pytest.fixture
def domain_id(make_gallery: Maker) -> int:
    return make_gallery("people", random_units(1, 8)).domain_id


def write(database: Database, domain_id: int | None, *days_ago: float) -> None:
    for days in days_ago:
        with database.transaction() as session:
            append(session, Event("test.done", datetime.now(UTC) - timedelta(days=days), "test", None), domain_id)


def state(database: Database, domain_id: int | None) -> tuple[list[int], int, object]:
    """Numbers of the events, number of the last pruned one, and what is broken."""
    with snapshot(database) as session:
        chain = chain_of(session, domain_id)
        query = text("SELECT seq FROM audit_events WHERE chain_id = :id ORDER BY seq")
        return list(session.scalars(query, {"id": chain.id})), chain.begin.seq, examine(session, chain)


def test_old_events_go_and_the_rest_is_whole(database: Database, domain_id: int) -> None:
    write(database, domain_id, 400, 399, 10, 1)
    write(database, None, 400, 1)
    with acting(NOTHING):  # as a thread of the service does
        assert prune_all(database, retention_days=365).events == 3
    # The last one says what was pruned.
    assert state(database, domain_id) == ([3, 4, 5], 2, None)
    assert state(database, None) == ([2, 3], 1, None)


def test_a_young_event_keeps_all_that_follow_it(database: Database, domain_id: int) -> None:
    write(database, domain_id, 400, 10, 400, 1)
    assert prune_all(database, retention_days=365).events == 1
    assert state(database, domain_id) == ([2, 3, 4, 5], 1, None)


def test_a_chain_may_lose_all_its_events_and_goes_on(database: Database, domain_id: int) -> None:
    write(database, domain_id, 400, 399)
    assert prune_all(database, retention_days=365).events == 2
    write(database, domain_id, 0)
    assert state(database, domain_id) == ([3, 4], 2, None)


def test_it_is_done_once_a_day(database: Database, domain_id: int) -> None:
    write(database, domain_id, 1)
    assert prune_all(database, retention_days=365).events == 0
    write(database, domain_id, 400)
    assert prune_all(database, retention_days=1).events == 0
    assert prune_all(database, retention_days=1, again=True).events == 2


def test_zero_days_keep_everything(database: Database, domain_id: int) -> None:
    write(database, domain_id, 4000)
    assert prune_all(database, retention_days=0).events == 0
    assert state(database, domain_id)[0] == [1]


def test_many_are_taken_out_in_several_transactions(
    database: Database, domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS_PER_TRANSACTION", 3)
    write(database, domain_id, *[400] * 8)
    assert prune_all(database, retention_days=365, max_rounds=2).events == 6
    assert state(database, domain_id)[1:] == (6, None)
    assert prune_all(database, retention_days=365).events == 2  # not done yet for today
    assert state(database, domain_id)[1:] == (8, None)


def test_a_broken_chain_stops_no_other(database: Database, make_gallery: Maker, tamper) -> None:
    broken, whole = (make_gallery(name, random_units(1, 8)).domain_id for name in ("broken", "whole"))
    write(database, broken, 400, 399, 1)
    write(database, whole, 400, 1)
    tamper("DELETE FROM audit_events WHERE domain_id = :id AND seq = 2", id=broken)
    assert prune_all(database, retention_days=365) == Pruned(events=1, more=False, broken=1)
    assert state(database, whole) == ([2, 3], 1, None)


def test_what_one_round_leaves_is_more(database: Database, domain_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_ROWS_PER_TRANSACTION", 3)
    write(database, domain_id, *[400] * 4)
    assert prune_all(database, retention_days=365, max_rounds=1) == Pruned(events=3, more=True)
    assert prune_all(database, retention_days=365, max_rounds=1) == Pruned(events=1, more=False)


def test_the_service_goes_on_pruning_until_nothing_is_left(
    database: Database, database_settings: Settings, tmp_path: Path, domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS_PER_TRANSACTION", 3)
    monkeypatch.setattr(log_module, "_PRUNE_ROUNDS", 1)
    monkeypatch.setattr(log_module, "_TEND_EVERY_S", 0.0)
    audit = AuditLog(database_settings.model_copy(update={"storage_dir": tmp_path}), database, CircuitBreaker())
    write(database, domain_id, *[400] * 7)
    for pruned_seq in (3, 6, 7, 7):
        audit.note("test.done", {}, domain="people")
        wait_for_tending()
        assert state(database, domain_id)[1] == pruned_seq


def test_a_thread_that_cannot_be_started_is_tried_again(
    database: Database, database_settings: Settings, tmp_path: Path, domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(log_module, "_TEND_EVERY_S", 0.0)
    audit = AuditLog(database_settings.model_copy(update={"storage_dir": tmp_path}), database, CircuitBreaker())
    write(database, domain_id, 400)
    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", full)
        assert audit.note("test.done", {}, domain="people") is Noted.STORED
    audit.note("test.done", {}, domain="people")
    wait_for_tending()
    assert state(database, domain_id)[1] == 1


def wait_for_tending() -> None:
    for thread in threading.enumerate():
        if thread.name == "audit":
            thread.join(30)
