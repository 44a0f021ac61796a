"""The real migrations, against a real database."""

import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from app.config import PROJECT_ROOT, Settings
from app.db import migrate, schema
from app.db.domains import create_domain
from app.db.models import MAX_DIMENSION, Base
from app.db.partitions import partition_name
from app.db.session import Database, database_url
from app.errors import DatabaseError, DatabaseTimeout, DatabaseUnavailable, InvalidEmbedding


def test_models_and_migrations_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        # What the comparison does not look at.
        kind = connection.scalar(text("SELECT relkind FROM pg_class WHERE oid = CAST('face_embeddings' AS regclass)"))
        tables = tuple(table.name for table in Base.metadata.sorted_tables)
        migrated = _checks(connection, "public", tables)
        connection.execute(text("CREATE SCHEMA modelled"))
        modelled = connection.execution_options(schema_translate_map={None: "modelled"})
        Base.metadata.create_all(modelled)
        assert _checks(connection, "modelled", tables) == migrated
    assert len([name for table, name, _ in migrated if table == "persons"]) == 2
    assert kind == "p"


def _checks(connection: Connection, schema: str, tables: tuple[str, ...]) -> set[tuple[str, str, str]]:
    """Each check as table, name and what it says, in the database's own words."""
    found = connection.execute(
        text(
            "SELECT relname, conname, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint"
            " JOIN pg_class ON pg_class.oid = conrelid"
            " WHERE contype = 'c' AND relnamespace = to_regnamespace(:schema) AND relname = ANY(:tables)"
        ),
        {"schema": schema, "tables": list(tables)},
    )
    return {(table, name, said) for table, name, said in found}


def test_embeddings_from_before_the_constraint_are_told_of_and_nothing_changes(database: Database) -> None:
    with database.transaction() as session:
        domain = create_domain(session, "people", model="m", contract="c", dimension=2)
    migrate.downgrade(database.engine, "0006")
    for vector, refused in (("[0,0]", True), ("[0.6,0.8]", False)):
        with database.maintenance() as connection:
            connection.execute(text("DELETE FROM face_embeddings"))
            connection.execute(
                text(
                    "WITH person AS (INSERT INTO persons (domain_id, label, display_name) VALUES (:domain, :vector, '')"
                    " RETURNING id) INSERT INTO face_embeddings (domain_id, person_id, box_x, box_y, box_w, box_h, score,"
                    " sharpness, embedding) SELECT :domain, id, 0, 0, 1, 1, 1, 1, CAST(:vector AS vector) FROM person"
                ),
                {"domain": domain.id, "vector": vector},
            )
        with pytest.raises(DatabaseError, match="face_embeddings has embeddings") if refused else nullcontext():
            migrate.upgrade(database.engine)
        assert schema.current_revision(database.engine) == ("0006" if refused else schema.head_revision())
    with pytest.raises(InvalidEmbedding), database.transaction() as session:
        session.execute(text(f"UPDATE {partition_name(domain.id)} SET embedding = CAST('[0,0]' AS vector)"))


def test_the_longest_embedding_fits_in_a_page(database: Database) -> None:
    from tests.db_server import fill_gallery, random_units

    gallery = fill_gallery(database, "long", random_units(1, MAX_DIMENSION))
    assert gallery.template_count == 1


def test_the_revision_that_is_expected_is_alembics_head() -> None:
    assert schema.head_revision() == ScriptDirectory(str(PROJECT_ROOT / "migrations")).get_current_head()


def test_to_be_ready_needs_no_alembic() -> None:
    program = "import sys, app.db.schema; app.db.schema.head_revision(); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_new_database_is_not_ready_until_it_is_migrated(empty_database_settings: Settings) -> None:
    database = Database(empty_database_settings)
    assert schema.current_revision(database.engine) is None
    with pytest.raises(DatabaseUnavailable, match="migrate"):
        database.check_ready()
    migrate.upgrade(database.engine)
    assert schema.current_revision(database.engine) == schema.head_revision()
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
    assert schema.current_revision(database.engine) is None
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
