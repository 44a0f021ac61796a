"""The real migrations, against a real database."""

import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, create_engine, inspect, text

from app.config import Settings
from app.db import migrate
from app.db.domains import create_domain
from app.db.models import MAX_DIMENSION, Base
from app.db.session import Database, database_url
from app.errors import DatabaseTimeout, DatabaseUnavailable


def test_models_and_migrations_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        # What the comparison does not look at.
        checks = {
            table.name: {str(check["name"]) for check in inspect(connection).get_check_constraints(table.name)}
            for table in Base.metadata.sorted_tables
        }
        kind = connection.scalar(text("SELECT relkind FROM pg_class WHERE oid = CAST('face_embeddings' AS regclass)"))
    assert checks == {
        table.name: {str(rule.name) for rule in table.constraints if isinstance(rule, CheckConstraint)}
        for table in Base.metadata.sorted_tables
    }
    assert len(checks["persons"]) == 2
    assert kind == "p"


def test_the_longest_embedding_fits_in_a_page(database: Database) -> None:
    from tests.db_server import fill_gallery, random_units

    gallery = fill_gallery(database, "long", random_units(1, MAX_DIMENSION))
    assert gallery.template_count == 1


def test_a_new_database_is_not_ready_until_it_is_migrated(empty_database_settings: Settings) -> None:
    database = Database(empty_database_settings)
    assert migrate.current_revision(database.engine) is None
    with pytest.raises(DatabaseUnavailable, match="migrate"):
        database.check_ready()
    migrate.upgrade(database.engine)
    assert migrate.current_revision(database.engine) == migrate.head_revision()
    database.check_ready()
    database.close()


def test_going_down_leaves_nothing_and_up_again_works(database: Database) -> None:
    with database.transaction() as session:
        create_domain(session, "people", model="m", contract="c", dimension=8)
    migrate.downgrade(database.engine, "base")
    with database.engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    migrate.upgrade(database.engine)
    database.check_ready()


def test_two_processes_may_migrate_at_once(empty_database_settings: Settings) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        engine = create_engine(database_url(empty_database_settings))
        try:
            migrate.upgrade(engine)
        except BaseException as error:
            failures.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    database = Database(empty_database_settings)
    database.check_ready()
    database.close()


def test_a_table_in_use_stops_a_migration_and_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_WAIT_FOR_TABLE_LOCK", "100ms")
    with database.transaction() as reader:
        reader.execute(text("SELECT * FROM domains"))
        with pytest.raises(DatabaseTimeout):
            migrate.downgrade(database.engine, "base")
    database.check_ready()


def test_an_old_pgvector_is_refused(empty_database_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_PGVECTOR_AT_LEAST", (99, 0, 0))
    database = Database(empty_database_settings)
    with pytest.raises(DatabaseUnavailable, match=r"pgvector 0\.8\.\d+; 99\.0\.0 or newer"):
        migrate.upgrade(database.engine)
    assert migrate.current_revision(database.engine) is None
    database.close()


def test_the_alembic_command_sees_every_domain_and_stores_what_it_does(
    database: Database, database_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def run_migrations(environment: EnvironmentContext) -> None:
        connection = environment.get_context().connection
        assert connection is not None
        seen.append(connection.scalar(text("SELECT current_setting('facedex.domains')")))
        connection.execute(text("UPDATE domains SET name = 'renamed'"))

    with database.transaction() as session:
        create_domain(session, "people", model="m", contract="c", dimension=8)
    monkeypatch.setattr("app.config.load_settings", lambda: database_settings)
    monkeypatch.setattr(EnvironmentContext, "run_migrations", run_migrations)
    command.upgrade(migrate._config(None), "head")
    assert seen == ["*"]
    with database.transaction() as session:
        assert session.scalar(text("SELECT name FROM domains")) == "renamed"
