"""Answers that were kept for idempotency keys go when their time is over."""

import pytest
from sqlalchemy import text

from app.api import sweeping
from app.api.sweeping import AnswerSweep
from app.api.wiring import build_app
from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.tenancy import acting, everything


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


def test_any_answer_that_is_sent_gives_occasion(database: Database, database_settings: Settings, tmp_path) -> None:
    keep(database, 3, hours_ago=25)
    app = build_app(database_settings.model_copy(update={"storage_dir": tmp_path}))
    app.test_client().get("/healthz", buffered=True).close()
    assert left(database) == 0
    keep(database, 3, hours_ago=25)
    app.test_client().get("/healthz", buffered=True).close()
    assert left(database) == 3  # once a minute
    app.extensions["facedex"].database.close()
