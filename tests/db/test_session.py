"""Connections: lazy, bounded, safe over a fork; and errors that say what a caller can do."""

import gc
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from app.config import Settings, parse_settings
from app.db.breaker import BreakerState, CircuitBreaker
from app.db.domains import create_domain
from app.db.session import Database, as_owner, database_url, fetch_raw, set_local
from app.errors import DatabaseBusy, DatabaseError, DatabaseTimeout, DatabaseUnavailable
from app.tenancy import Reach, acting, everything


def with_settings(settings: Settings, **changes: object) -> Settings:
    return settings.model_copy(update=changes)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_common_form_of_url_uses_our_driver(scheme: str) -> None:
    settings = parse_settings().model_copy()
    url = parse_settings(vector_db_url="postgresql://ann:s3cret@db.example:5433/faces?sslmode=require").vector_db_url
    assert url is not None
    given = type(url)(url.get_secret_value().replace("postgresql", scheme, 1))
    parsed = database_url(with_settings(settings, vector_db_url=given))
    assert parsed.drivername == "postgresql+psycopg"
    assert (parsed.host, parsed.port, parsed.database, parsed.password) == ("db.example", 5433, "faces", "s3cret")
    assert parsed.query == {"sslmode": "require"}


def test_without_a_server_the_database_is_unavailable_and_the_message_tells_no_secret(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        Database(parse_settings(storage_dir=tmp_path, vector_db_url=None)).ping()
    url = f"postgresql://ann:s3cret@/faces?host={tmp_path}"
    with pytest.raises(DatabaseUnavailable) as refused:
        Database(parse_settings(vector_db_url=url)).ping()
    assert "s3cret" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert "s3cret" not in repr(parse_settings(vector_db_url=url))


@pytest.mark.timeout(60)  # else a request would wait for as long as connecting may take
def test_a_server_that_takes_a_connection_and_says_nothing_is_given_up_with_the_transaction() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/faces"
        database = Database(parse_settings(vector_db_url=url, db_connect_timeout_s=3600))
        with pytest.raises(DatabaseUnavailable), database.transaction(0.1):
            raise AssertionError("it is not there")
        database.close()


def test_a_wrong_password_is_unavailable(database_settings: Settings) -> None:
    wrong = database_url(database_settings).set(drivername="postgresql", password="wrong")
    settings = parse_settings(vector_db_url=wrong.render_as_string(hide_password=False))
    with pytest.raises(DatabaseUnavailable):
        Database(settings).ping()


def sleep_long(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("SELECT pg_sleep(60)"))


def test_a_slow_statement_is_a_timeout_and_the_connection_is_usable_afterwards(database_settings: Settings) -> None:
    database = Database(with_settings(database_settings, db_pool_size=1, db_statement_timeout_s=0.2))
    for _ in range(2):
        with pytest.raises(DatabaseTimeout):
            sleep_long(database)
    database.ping()
    database.close()


def test_a_transaction_can_have_a_shorter_limit_that_ends_with_it(database_settings: Settings) -> None:
    database = Database(with_settings(database_settings, db_pool_size=1, db_statement_timeout_s=20))
    with pytest.raises(DatabaseTimeout), database.transaction(timeout_s=0.1) as session:
        session.execute(text("SELECT pg_sleep(60)"))
    with database.transaction(timeout_s=3.5) as session:
        assert session.scalar(text("SHOW statement_timeout")) == "3500ms"
    with database.transaction(timeout_s=99) as session:
        assert session.scalar(text("SHOW statement_timeout")) == "20s"
    database.close()


def test_usually_connecting_may_take_ten_seconds_and_a_statement_thirty(database_settings: Settings) -> None:
    usual = parse_settings()
    limits = {name: getattr(usual, name) for name in ("db_connect_timeout_s", "db_statement_timeout_s")}
    database = Database(with_settings(database_settings, db_pool_size=1, **limits))
    with database.transaction() as session:
        assert session.scalar(text("SHOW statement_timeout")) == "30s"
        given = session.connection().connection.dbapi_connection.info.get_parameters()
    assert given["connect_timeout"] == "10"
    database.close()


def test_settings_of_a_transaction_do_not_leak_into_the_next(database_settings: Settings) -> None:
    database = Database(with_settings(database_settings, db_pool_size=1))
    with database.transaction() as session:
        set_local(session, hnsw__ef_search="77", enable_seqscan="off")
        assert session.scalar(text("SHOW hnsw.ef_search")) == "77"
    with database.transaction() as session:
        assert session.scalar(text("SHOW hnsw.ef_search")) == "40"
        assert session.scalar(text("SHOW enable_seqscan")) == "on"
    database.close()


def test_waiting_for_a_connection_is_bounded(database_settings: Settings) -> None:
    database = Database(with_settings(database_settings, db_pool_size=1, db_pool_timeout_s=0.1))
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="No database connection became free"):
            database.ping()
    database.ping()
    database.close()


def read_domains(database: Database, **values: str) -> None:
    with database.transaction() as session:
        set_local(session, **values)
        session.execute(text("SELECT * FROM domains"))


def test_a_lock_that_is_not_free_is_a_timeout(database: Database) -> None:
    with database.transaction() as holder:
        holder.execute(text("LOCK TABLE domains"))
        with pytest.raises(DatabaseTimeout, match="lock"):
            read_domains(database, lock_timeout="50ms")


def test_a_connection_that_the_server_closed_fails_once_and_then_is_replaced(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable), database.transaction() as session, as_owner(session):
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    database.ping()
    # Idle ones are looked at before they are used: nobody notices at all.
    for use in (database.ping, lambda: database.ask("SELECT 1", {})):
        with database.transaction() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
        with database.maintenance() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        use()


def test_one_statement_alone_is_asked_and_committed_with_its_values_as_they_are(database: Database) -> None:
    odd = '\'); DROP TABLE domains; -- 100% :name %(name)s \\ "č" 😀'
    add = "INSERT INTO domains (name, model, contract, dimension) VALUES (%(name)s, 'm', 'c', %(size)s)"
    add += " RETURNING name, dimension"
    assert database.ask(add, {"name": odd, "size": 8}) == [(odd, 8)]
    assert database.ask("SELECT uid FROM domains WHERE name LIKE %(like)s ESCAPE '!'", {"like": "%100!%%"}) == [
        (database.ask("SELECT uid FROM domains WHERE name = %(name)s", {"name": odd})[0][0],)
    ]
    assert database.ask("UPDATE domains SET dimension = 9", {}) == []
    with database.transaction() as session:
        assert session.execute(text("SELECT name, dimension FROM domains")).all() == [(odd, 9)]


def test_one_statement_alone_sees_what_is_within_reach(database: Database) -> None:
    with database.transaction() as session:
        own, _ = (create_domain(session, name, model="m", contract="c", dimension=8).id for name in ("own", "other"))
    with acting(Reach("key", ids=frozenset({own}))):
        assert database.ask("SELECT name FROM domains", {}) == [("own",)]
    with acting(Reach("key", ids=frozenset())):
        assert database.ask("SELECT name FROM domains", {}) == []


def test_one_statement_alone_that_fails_changes_nothing_and_leaves_the_connection_usable(
    database_settings: Settings,
) -> None:
    database = Database(with_settings(database_settings, db_pool_size=1))
    with pytest.raises(DatabaseTimeout):
        database.ask("SELECT pg_sleep(60)", {}, 0.2)
    add = "INSERT INTO domains (name, model, contract, dimension) VALUES ('a', 'm', 'c', %(size)s)"
    with pytest.raises(IntegrityError):
        database.ask(add, {"size": 0})
    assert database.ask("SELECT name FROM domains", {}) == []
    assert database.ask("SELECT current_setting('statement_timeout')", {}, 3.5) == [("3500ms",)]
    killer = threading.Thread(target=end_the_sleeper, args=(database,))
    killer.start()
    with pytest.raises(DatabaseUnavailable):
        database.ask("SELECT pg_sleep(60)", {})
    killer.join()
    database.ping()
    database.close()


def end_the_sleeper(database: Database) -> None:
    """End the connection that sleeps, once it does."""
    sleepers = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with database.maintenance() as connection:
        while not connection.execute(text(f"{sleepers} AND datname = current_database()")).all():
            time.sleep(0.01)


def test_one_statement_alone_belongs_to_the_unit_of_work_around_it(database: Database) -> None:
    add = "INSERT INTO domains (name, model, contract, dimension) VALUES ('a', 'm', 'c', 8)"
    with pytest.raises(ZeroDivisionError), database.unit_of_work():
        database.ask(add, {})[1 // 0]
    assert database.ask("SELECT name FROM domains", {}) == []


def test_a_block_that_raises_is_rolled_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as session:
        session.info["answer"] = create_domain(session, "people", model="m", contract="c", dimension=8).id // 0
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM domains")) == 0


def test_mistakes_of_the_program_are_not_called_unavailability(database: Database) -> None:
    with pytest.raises(ProgrammingError), database.transaction() as session:
        session.execute(text("SELECT no_such_column FROM domains"))
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(text("INSERT INTO domains (name, model, contract, dimension) VALUES ('a', 'm', 'c', 0)"))


def test_nothing_is_opened_before_the_first_use(database_settings: Settings, tmp_path: Path) -> None:
    Database(parse_settings(storage_dir=tmp_path / "missing", vector_db_url=None))
    assert not (tmp_path / "missing").exists()


def test_a_forked_process_uses_connections_of_its_own(database: Database) -> None:
    with database.transaction() as session:
        parents = session.scalar(text("SELECT pg_backend_pid()"))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing but _exit may leave the child: it is a copy of the test run.
        try:
            with database.transaction() as session:
                os.write(writer, str(session.scalar(text("SELECT pg_backend_pid()"))).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        childs = int(answers.read())
    os.waitpid(child, 0)
    assert childs != parents
    with database.transaction() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) == parents


def test_many_threads_share_the_pool(database_settings: Settings) -> None:
    database = Database(with_settings(database_settings, db_pool_size=3, db_pool_timeout_s=30))
    seen: list[int] = []

    def ask() -> None:
        with database.transaction() as session:
            seen.append(session.scalar(text("SELECT pg_backend_pid() FROM pg_sleep(0.02)")))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 12
    assert len(set(seen)) <= 3
    database.close()


def test_one_tenants_slow_queries_leave_connections_for_others_and_nobody_calls_the_server_away(
    database_settings: Settings,
) -> None:
    database = Database(with_settings(database_settings, db_pool_size=4, db_pool_timeout_s=1.5))
    breaker = CircuitBreaker()
    outcomes: list[object] = []
    started = threading.Semaphore(0)

    def ask(number: int, limit_s: float) -> None:
        try:
            with (
                acting(Reach(f"key-{number}", ids=frozenset({1}))),
                breaker.guard(),
                database.transaction(limit_s) as session,
            ):
                started.release()
                outcomes.append(session.scalar(text("SELECT pg_backend_pid() FROM pg_sleep(4)")))
        except DatabaseError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask, args=asked) for asked in enumerate([20.0] * 3 + [0.5] * 4)]
    for thread in threads[:3]:
        thread.start()
    for _ in range(3):
        assert started.acquire(timeout=30)
    for thread in threads[3:]:
        thread.start()
    with acting(Reach("theirs", ids=frozenset({2}))), breaker.guard(), database.transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1
    for thread in threads:
        thread.join()
    assert outcomes.count(DatabaseBusy) == 4
    assert breaker.state is BreakerState.CLOSED
    database.close()


def test_who_gets_a_connection_late_has_all_the_time_for_the_server(database_settings: Settings) -> None:
    database = Database(with_settings(database_settings, db_pool_size=1, db_pool_timeout_s=30))
    held, waits = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction() as session:
            session.execute(text("SELECT 1"))
            held.set()
            waits.wait(2.5)  # with the other's query longer than it waits for either, and each by far not as long

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    with database.transaction(5.0) as session:
        assert session.scalar(text("SELECT 1 FROM pg_sleep(3.5)")) == 1
    holder.join()
    database.close()


def test_a_key_is_looked_up_while_all_connections_are_in_use(database_settings: Settings) -> None:
    settings = with_settings(database_settings, db_pool_size=1, db_pool_timeout_s=0.1)
    database = Database(settings)
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
        with database.reserve.transaction(), database.reserve.transaction() as other:
            assert other.scalar(text("SELECT 1")) == 1
    database.close()


def test_a_connection_that_is_in_use_when_its_pool_is_given_up_is_closed_with_its_transaction(
    database: Database,
) -> None:
    with database.bare_transaction() as transaction:
        connection = transaction.connection
        database.close()
        assert fetch_raw(transaction, "SELECT 1") == [(1,)]
    assert connection.closed
    with database.transaction() as session:
        kept = session.connection().connection.driver_connection
    assert not kept.closed


def test_what_is_connected_while_the_pool_is_given_up_is_closed_as_well(database: Database) -> None:
    connects, goes_on = threading.Event(), threading.Event()

    @event.listens_for(database.engine, "connect")
    def hold(*_: object) -> None:
        connects.set()
        assert goes_on.wait(10)

    made: list[object] = []

    def connect() -> None:
        with acting(everything("test")), database.bare_transaction() as transaction:
            made.append(transaction.connection)

    connecting = threading.Thread(target=connect)
    connecting.start()
    assert connects.wait(10)
    database.close()
    goes_on.set()
    connecting.join(10)
    [connection] = made
    assert connection.closed


def test_a_pool_that_is_dropped_leaves_no_connection_open(database: Database, database_settings: Settings) -> None:
    dropped = Database(database_settings)
    with dropped.transaction() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    del dropped, session
    gc.collect()
    alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    until_s = time.monotonic() + 10
    with database.engine.connect() as connection:
        while connection.scalar(alive, {"pid": pid}):
            assert time.monotonic() < until_s
            time.sleep(0.01)
