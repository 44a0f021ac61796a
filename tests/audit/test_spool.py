"""Events outlive an outage of the database: each is moved into its chain once, in order."""

import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from app.audit.event import Event
from app.audit.log import AuditLog, Noted
from app.audit.spool import Spool, Spooled
from app.db.breaker import CircuitBreaker
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from app.db.session import Database
from app.errors import DatabaseUnavailable
from app.tenancy import Reach, acting, carried
from tests.audit.test_chain import assert_unbroken
from tests.db_server import Maker, fill_gallery, random_units, storage_in


def event(number: int) -> Event:
    return Event("test.done", datetime.now(UTC), "key-1", f"r-{number}", ("p",), {"number": number})


def numbers(database: Database, domain_id: int | None) -> list[int]:
    return [body["details"]["number"] for body in assert_unbroken(database, domain_id)]


def wait_for_tending() -> None:
    for thread in threading.enumerate():
        if thread.name == "audit":
            thread.join(30)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "audit")


@pytest.fixture
def domain_id(make_gallery: Maker) -> int:
    return make_gallery("people", random_units(1, 8)).domain_id


def test_what_waited_is_moved_in_order_and_as_it_was(database: Database, domain_id: int, spool: Spool) -> None:
    events = [event(number) for number in range(250)]
    for each in events:
        assert spool.add(Spooled(each, "people"))
    assert spool.waiting
    assert spool.move_into(database) == 250
    assert not spool.waiting
    assert numbers(database, domain_id) == list(range(250))
    first = assert_unbroken(database, domain_id)[0]
    assert (first["client"], first["request_id"], first["persons"]) == ("key-1", "r-0", ["p"])
    assert datetime.fromisoformat(first["at"]) == events[0].at


def test_only_its_owner_can_read_it(spool: Spool, tmp_path: Path) -> None:
    spool.add(Spooled(event(0), "people"))
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "audit").iterdir()} == {0o600}


def test_a_domain_that_is_only_a_dataset_goes_to_the_installation(database: Database, spool: Spool) -> None:
    spool.add(Spooled(event(0), "slovenia"))
    spool.add(Spooled(event(1), None))
    spool.move_into(database)
    found = assert_unbroken(database, None)
    assert [body["details"].get("dataset") for body in sorted(found, key=lambda body: body["details"]["number"])] == [
        "slovenia",
        None,
    ]


def test_what_is_in_its_chain_already_is_not_moved_twice(
    database: Database, domain_id: int, spool: Spool, tmp_path: Path
) -> None:
    for number in range(5):
        spool.add(Spooled(event(number), "people"))
        spool.add(Spooled(event(number), "slovenia"))
    copy = (tmp_path / "audit/spool.jsonl").read_bytes()
    spool.move_into(database)
    # As after a crash between the commit and the removal of the file.
    (tmp_path / "audit/spool.moving.jsonl").write_bytes(copy)
    spool.add(Spooled(event(5), "people"))
    assert spool.move_into(database) == 1
    assert numbers(database, domain_id) == list(range(6))
    assert len(numbers(database, None)) == 5


def test_a_line_that_was_broken_off_takes_no_other_along(
    database: Database, domain_id: int, spool: Spool, tmp_path: Path
) -> None:
    spool.add(Spooled(event(0), "people"))
    with (tmp_path / "audit/spool.jsonl").open("ab") as stream:
        stream.write(b'{"domain": "people", "eve')
    spool.add(Spooled(event(1), "people"))
    assert spool.move_into(database) == 2
    assert numbers(database, domain_id) == [0, 1]
    assert (tmp_path / "audit/unreadable.jsonl").read_bytes() == b'{"domain": "people", "eve\n'


def test_writers_and_movers_at_once_lose_nothing(
    database: Database, domain_id: int, spool: Spool, tmp_path: Path
) -> None:
    done = threading.Event()

    def move() -> None:
        mover = Spool(tmp_path / "audit")
        while not done.is_set() or mover.waiting:
            mover.move_into(database)

    with ThreadPoolExecutor(6) as threads:
        movers = [threads.submit(carried(move)) for _ in range(2)]
        list(threads.map(lambda number: spool.add(Spooled(event(number), "people")), range(200)))
        done.set()
        for mover in movers:
            mover.result()
    assert sorted(numbers(database, domain_id)) == list(range(200))


def test_a_full_spool_says_what_it_loses(database_settings, tmp_path: Path) -> None:
    settings = database_settings.model_copy(update={"storage_dir": tmp_path, "vector_db_enabled": False})
    log = AuditLog(settings, Database(settings), CircuitBreaker())
    log.spool = Spool(settings.audit_dir, max_bytes=2_000)
    outcomes = []
    with structlog.testing.capture_logs() as lines:
        while not outcomes or outcomes[-1] is Noted.SPOOLED:
            outcomes.append(log.note("recognition.answered", {"faces": 1}, domain="people"))
    assert outcomes[-1] is Noted.LOST
    assert len(outcomes) > 5
    assert any(line["log_level"] == "error" and "the spool is full" in line["event"] for line in lines)


def test_a_folder_that_cannot_be_written_costs_no_answer(database_settings, tmp_path: Path) -> None:
    settings = database_settings.model_copy(update={"storage_dir": tmp_path / "file", "vector_db_enabled": False})
    (tmp_path / "file").write_text("in the way")
    log = AuditLog(settings, Database(settings), CircuitBreaker())
    assert log.note("recognition.answered", {"faces": 1}) is Noted.LOST


def test_an_event_goes_to_its_domain_or_the_installation(database_settings, tmp_path, database, make_gallery) -> None:
    mine = make_gallery("mine", random_units(1, 8)).domain_id
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    log = AuditLog(settings, database, CircuitBreaker())
    with acting(Reach("key-1", frozenset({"mine", "dataset"}), frozenset({mine}))):
        assert log.note("recognition.answered", {"number": 1}, domain="mine") is Noted.STORED
        assert log.note("recognition.answered", {"number": 2}, domain="dataset") is Noted.STORED
        assert log.note("verification.answered", {"number": 3}) is Noted.STORED
    wait_for_tending()  # it uses this test's database
    assert numbers(database, mine) == [1]
    assert numbers(database, None) == [2, 3]
    assert not (tmp_path / "audit").exists()


@pytest.mark.slow
def test_a_real_outage_costs_no_event(tmp_path: Path) -> None:
    """The server is stopped, and started again."""
    settings = storage_in(tmp_path / "s")
    server = EmbeddedPostgres(settings)
    server.prepare()
    running = server.start()
    database = Database(settings)
    log = AuditLog(settings, database, CircuitBreaker())
    try:
        upgrade(database.engine)
        domain_id = fill_gallery(database, "people", random_units(1, 8)).domain_id
        noted = [log.note("recognition.answered", {"number": n}, domain="people") for n in range(3)]
        wait_for_tending()
        running.stop()
        noted += [log.note("recognition.answered", {"number": n}, domain="people") for n in range(3, 20)]
        with pytest.raises(DatabaseUnavailable):
            log.spool.move_into(database)
        running = server.start()
        log._breaker = CircuitBreaker()  # nobody waits for the old one's pause here
        log.tend()
        noted += [log.note("recognition.answered", {"number": n}, domain="people") for n in range(20, 23)]
        assert noted == [Noted.STORED] * 3 + [Noted.SPOOLED] * 17 + [Noted.STORED] * 3
        assert numbers(database, domain_id) == list(range(23))
    finally:
        wait_for_tending()
        database.close()
        running.stop()


def test_the_next_event_that_gets_through_takes_the_others_along(
    database_settings, tmp_path, database, domain_id: int
) -> None:
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    log = AuditLog(settings, database, CircuitBreaker())
    log.note("recognition.answered", {"number": 0}, domain="people", away=True)
    log.note("recognition.answered", {"number": 1}, domain="people")
    wait_for_tending()
    assert sorted(numbers(database, domain_id)) == [0, 1]
    assert not log.spool.waiting


def test_a_line_is_an_event_and_its_domain() -> None:
    spooled = Spooled(event(1), "Škoda")
    assert Spooled.of_line(spooled.as_line()) == spooled
    assert json.loads(spooled.as_line())["event"]["details"] == {"number": 1}
    assert os.linesep.encode() not in spooled.as_line()[:-1]


def test_a_database_without_tables_costs_no_event(empty_database_settings, tmp_path):
    settings = empty_database_settings.model_copy(update={"storage_dir": tmp_path})
    database = Database(settings)
    log = AuditLog(settings, database, CircuitBreaker())
    assert [log.note("test.done", {}, domain=domain) for domain in ("people", None)] == [Noted.SPOOLED] * 2
    database.close()
