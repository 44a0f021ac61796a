"""Answers that were kept for idempotency keys go when their time is over, and so do tombstones."""

import pytest
from sqlalchemy import text

from app.api import sweeping
from app.api.sweeping import AnswerSweep
from app.api.wiring import build_app
from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.domains import create_domain
from app.db.persons import ensure_persons
from app.db.session import Database
from app.db.templates import delete_person, insert_templates
from app.tenancy import acting, everything
from tests.db_server import random_units, template


def keep(database: Database, count: int, hours_ago: int) -> None:
    statement = """
    INSERT INTO idempotent_requests (client, key, fingerprint, created_at)
    SELECT 'key-' || n % 3, :hours || '-' || n, sha256('x'), now() - make_interval(hours => :hours)
    FROM generate_series(1, :count) AS n
    """
    with database.maintenance() as connection:
        connection.execute(text(statement), {"count": count, "hours": hours_ago})


def left(database: Database) -> int:
    with acting(everything("test")), database.transaction() as session:
        return session.scalar(text("SELECT count(*) FROM idempotent_requests")) or 0


def test_all_that_is_too_old_goes_however_much_it_is(
    database: Database, database_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_ROWS", 4)
    keep(database, 10, hours_ago=25)
    keep(database, 2, hours_ago=1)
    answers = AnswerSweep(database_settings, database, CircuitBreaker())
    assert answers.sweep() == 10
    assert left(database) == 2


def test_a_single_sweep_is_bounded(
    database: Database, database_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_ROWS", 2)
    monkeypatch.setattr(sweeping, "_ROUNDS", 3)
    keep(database, 10, hours_ago=25)
    assert AnswerSweep(database_settings, database, CircuitBreaker()).sweep() == 6
    assert left(database) == 4


def removed(database: Database) -> int:
    with acting(everything("test")), database.transaction() as session:
        return session.scalar(text("SELECT count(*) FROM gallery_changes WHERE removed")) or 0


def remove_everybody(database: Database, name: str) -> None:
    """As if it had been a month ago."""
    with database.transaction() as session:
        domain = create_domain(session, name, model="m", contract="c", dimension=8)
        (person,) = ensure_persons(session, domain.id, ["p0"])[0].values()
        insert_templates(session, domain.id, [template(person, random_units(1, 8)[0])])
        delete_person(session, domain.id, person)
        session.execute(text("UPDATE gallery_changes SET changed_at = now() - interval '40 days'"))


def test_any_answer_that_is_sent_gives_occasion(database: Database, database_settings: Settings, tmp_path) -> None:
    keep(database, 3, hours_ago=25)
    remove_everybody(database, "one")
    remove_everybody(database, "another")
    assert removed(database) == 2
    app = build_app(database_settings.model_copy(update={"storage_dir": tmp_path}))
    app.test_client().get("/healthz", buffered=True).close()
    assert left(database) == 0
    assert removed(database) == 0
    keep(database, 3, hours_ago=25)
    app.test_client().get("/healthz", buffered=True).close()
    assert left(database) == 3  # once a minute
    app.extensions["facedex"].database.close()
