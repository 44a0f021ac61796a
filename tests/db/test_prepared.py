"""Statements that go to the server in a text with others are planned once a connection."""

import pytest
import sqlalchemy.exc
from sqlalchemy import text

from app.db.prepared import correct
from app.db.session import Database, as_owner, fetch_raw
from app.tenancy import Reach, acting, everything
from tests.db_server import Maker, random_units

STATEMENT = "SELECT CAST(%(text)s AS text) || %(text)s, CAST(%(number)s AS int) %% 7"


def plans(database: Database) -> dict[str, int]:
    """How often each of Facedex's own statements was planned for its values, and for all."""
    rows = database.ask("SELECT name, generic_plans + custom_plans FROM pg_prepared_statements", {})
    return {name: uses for name, uses in rows if name.startswith("facedex_")}


@pytest.fixture
def one_connection(database_settings) -> Database:
    made = Database(database_settings.model_copy(update={"db_pool_size": 1}))
    yield made
    made.close()


@pytest.mark.parametrize("given", ["a'b", "%(number)s", "\\", "Škoda 🙂", ""])
def test_values_are_values(one_connection: Database, given: str) -> None:
    for number in (9, None):
        assert one_connection.ask(STATEMENT, {"text": given, "number": number}) == [(given * 2, number and 2)]


def test_a_statement_is_prepared_once_and_used_from_then_on(one_connection: Database) -> None:
    for _ in range(8):
        one_connection.ask(STATEMENT, {"text": "a", "number": 1})
    assert sorted(plans(one_connection).values()) == [1, 8]  # the other is the question itself


def test_a_new_connection_prepares_its_own(one_connection: Database) -> None:
    assert one_connection.ask(STATEMENT, {"text": "a", "number": 8}) == [("aa", 1)]
    one_connection.close()
    assert one_connection.ask(STATEMENT, {"text": "a", "number": 8}) == [("aa", 1)]


def test_a_changed_schema_after_which_the_driver_drops_everything_costs_no_answer(
    one_connection: Database, make_gallery: Maker
) -> None:
    make_gallery("people", random_units(3, 64))
    count = "SELECT count(*) FROM domains"
    for _ in range(3):
        with one_connection.transaction() as session:
            for _ in range(8):  # it drops something only where it has prepared something itself
                fetch_raw(session, count)
        assert one_connection.ask(count, {}) == [(1,)]
        with one_connection.transaction() as session, as_owner(session):
            session.execute(text("CREATE TABLE changed (id int)"))
        with one_connection.transaction() as session, as_owner(session):
            session.execute(text("DROP TABLE changed"))
    assert one_connection.ask(count, {}) == [(1,)]


def test_two_statements_that_were_dropped_come_back_in_any_order(one_connection: Database) -> None:
    first, second = "SELECT 1", "SELECT 2"

    def drop() -> None:
        with one_connection._driver_connection(10) as connection:
            connection.execute("DEALLOCATE ALL")

    one_connection.ask(first, {})
    drop()
    for statement, answer in ((second, 2), (first, 1), (second, 2), (first, 1)):
        assert one_connection.ask(statement, {}) == [(answer,)]
    drop()
    for statement, answer in ((first, 1), (second, 2), (first, 1)):
        assert one_connection.ask(statement, {}) == [(answer,)]


def test_a_statement_that_is_there_unknown_to_us_is_used(one_connection: Database) -> None:
    one_connection.ask("SELECT 1", {})
    with one_connection._driver_connection(10) as connection:
        correct(connection, "SELECT 1", is_there=False)
    for _ in range(2):
        assert one_connection.ask("SELECT 1", {}) == [(1,)]


def test_what_cannot_be_prepared_leaves_the_connection_usable(one_connection: Database) -> None:
    for _ in range(2):
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            one_connection.ask("SELECT FROM nowhere", {})
    assert one_connection.ask("SELECT 1", {}) == [(1,)]


def test_who_asks_decides_what_is_seen_though_the_plan_is_another_ones(
    one_connection: Database, make_gallery: Maker
) -> None:
    make_gallery("people", random_units(3, 64))
    count = "SELECT count(*) FROM domains"
    for _ in range(8):
        with acting(everything("test")):
            assert one_connection.ask(count, {}) == [(1,)]
        with acting(Reach("test")):
            assert one_connection.ask(count, {}) == [(0,)]
