"""Units of work: what is claimed, done and answered is stored together, or not at all."""

import threading

import pytest
from sqlalchemy import select, text

from app.db.domains import create_domain, load_gallery
from app.db.models import Person
from app.db.session import Database
from app.errors import DatabaseTimeout
from app.tenancy import NOTHING, Reach, acting, carried
from tests.db_server import Maker, random_units


@pytest.fixture
def domain_id(make_gallery: Maker) -> int:
    return make_gallery("people", random_units(1, 8)).domain_id


def add(database: Database, domain_id: int, label: str) -> None:
    with database.transaction() as session:
        session.add(Person(domain_id=domain_id, label=label, display_name=label))


def labels(database: Database) -> list[str]:
    with database.transaction() as session:
        return sorted(session.scalars(select(Person.label)))


def in_another_thread(function, *arguments):
    """What the function returns in a thread that the context, and so the unit, was carried to."""
    found = []
    work = carried(lambda: found.append(function(*arguments)))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def test_nothing_is_seen_before_the_end_and_all_of_it_after(database: Database, domain_id: int) -> None:
    with database.unit_of_work():
        add(database, domain_id, "a")
        add(database, domain_id, "b")
        assert labels(database) == ["a", "b", "p0"]
        assert in_another_thread(labels, database) == ["p0"]
    assert labels(database) == ["a", "b", "p0"]


def test_an_exception_undoes_all_of_it(database: Database, domain_id: int) -> None:
    def fail() -> None:
        with database.unit_of_work():
            add(database, domain_id, "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert labels(database) == ["p0"]


def test_a_part_that_fails_and_is_caught_undoes_only_itself(database: Database, domain_id: int) -> None:
    def fail() -> None:
        with database.transaction() as session:
            session.add(Person(domain_id=domain_id, label="b", display_name="b"))
            session.flush()
            session.execute(text("SELECT 1/0"))

    with database.unit_of_work():
        add(database, domain_id, "a")
        with pytest.raises(Exception, match="division by zero"):
            fail()
        add(database, domain_id, "c")
    assert labels(database) == ["a", "c", "p0"]


def test_a_part_reads_anew_what_another_one_read_before(database: Database, domain_id: int) -> None:
    with database.unit_of_work():
        with database.transaction() as session:
            assert session.scalars(select(Person)).one().label == "p0"
            session.execute(text("UPDATE persons SET label = 'changed'"))
        with database.transaction() as session:
            assert session.scalars(select(Person)).one().label == "changed"


def test_each_part_has_the_reach_of_whoever_acts(database: Database, make_gallery: Maker) -> None:
    mine, theirs = (make_gallery(name, random_units(1, 8)).domain_id for name in ("mine", "theirs"))
    with database.unit_of_work():
        with acting(Reach("key-1", ids=frozenset({theirs}))):
            add(database, theirs, "a")
            assert labels(database) == ["a", "p0"]
        assert labels(database) == ["a", "p0", "p0"]
    with acting(Reach("key-1", ids=frozenset({mine}))), database.unit_of_work() as session:
        assert labels(database) == ["p0"]
        assert session.scalar(text("SELECT count(*) FROM persons")) == 1


def test_after_a_part_within_a_part_the_outer_one_is_as_it_was(database: Database, make_gallery: Maker) -> None:
    make_gallery("mine", random_units(1, 8))
    theirs = make_gallery("theirs", random_units(2, 8)).domain_id
    count = text("SELECT count(*) FROM persons")

    def fail() -> None:
        with database.transaction(3.0):
            raise ZeroDivisionError

    with database.unit_of_work():
        with acting(Reach("key-1", ids=frozenset({theirs}))), database.transaction(5.0) as session:
            with acting(NOTHING), database.transaction(4.0):
                assert session.scalar(count) == 0
            with acting(NOTHING), pytest.raises(ZeroDivisionError):
                fail()
            assert session.scalar(count) == 2
            assert session.scalar(text("SHOW statement_timeout")) == "5s"
        with database.transaction() as session:
            assert session.scalar(count) == 3
            assert session.scalar(text("SHOW statement_timeout")) == "1min"


def test_a_parts_time_limit_ends_with_it(database: Database, domain_id: int) -> None:
    def too_long() -> None:
        with database.transaction(0.05) as session:
            session.execute(text("SELECT pg_sleep(5)"))

    with database.unit_of_work():
        with pytest.raises(DatabaseTimeout):
            too_long()
        with database.transaction(5.0) as session:
            assert session.scalar(text("SHOW statement_timeout")) == "5s"
        with database.bulk_transaction() as session:
            assert session.execute(text("SHOW statement_timeout")).scalar() == "0"
            assert session.execute(text("SHOW lock_timeout")).scalar() == "30s"
        with database.transaction() as session:
            assert session.scalar(text("SHOW statement_timeout")) == "1min"
            assert session.scalar(text("SHOW lock_timeout")) == "0"


def test_a_domain_with_its_partition_is_made_in_one(database: Database) -> None:
    with database.unit_of_work():
        with database.transaction() as session:
            create_domain(session, "new", model="m", contract="c:8:0", dimension=8)
        with database.transaction() as session:
            assert load_gallery(session, "new").index_valid
            assert session.scalar(text("SELECT CURRENT_USER")) == "facedex_app"
    with database.transaction() as session:
        assert load_gallery(session, "new").dimension == 8


def test_another_database_does_not_join(database: Database, database_settings, domain_id: int) -> None:
    other = Database(database_settings)
    with database.unit_of_work():
        add(database, domain_id, "a")
        assert labels(other) == ["p0"]
    other.close()
