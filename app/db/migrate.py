"""Brings a database's schema to the version of this program."""

from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from app.config import PROJECT_ROOT
from app.db.session import set_local, translated_errors
from app.db.unit import APP_ROLE
from app.errors import DatabaseUnavailable

# An arbitrary number, the same for every process that migrates this schema.
_LOCK_KEY: Final = 0x0FACEDE8
_WAIT_FOR_OTHER_MIGRATION: Final = "10min"
_WAIT_FOR_TABLE_LOCK: Final = "5s"
_PGVECTOR_AT_LEAST: Final = (0, 8, 4)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the missing migrations in one transaction. Processes that do so at once take turns.

    Raises:
        DatabaseUnavailable: no connection, or its pgvector is missing or too old.
        DatabaseTimeout: a table was in use for too long; nothing was changed, try again.
    """
    with translated_errors(), engine.begin() as connection:
        take_turn(connection)
        _require_pgvector(connection)
        _require_app_role(connection)
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo migrations down to `revision`, with the data that only they can hold.

    Raises: as `upgrade`.
    """
    with translated_errors(), engine.begin() as connection:
        take_turn(connection)
        command.downgrade(_config(connection), revision)


def take_turn(connection: Connection) -> None:
    """Begin a migration: wait for another process's, for long; for a table that a query holds, only briefly; see every domain.

    A migration that waits for a table makes every later query wait behind it.
    """
    set_local(connection, lock_timeout=_WAIT_FOR_OTHER_MIGRATION, statement_timeout="0")
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    # Row-level security is forced on the owner too, and a migration may have to change rows.
    set_local(connection, lock_timeout=_WAIT_FOR_TABLE_LOCK, facedex__domains="*")


def _require_pgvector(connection: Connection) -> None:
    """pgvector before 0.8.4 corrupted indexes under vacuum and parallel build."""
    found = connection.execute(
        text("SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'")
    ).one_or_none()
    installed, version = (None, None) if found is None else (found[0], found[0] or found[1])
    wanted = ".".join(map(str, _PGVECTOR_AT_LEAST))
    if version is None:
        raise DatabaseUnavailable(f"The database server lacks the extension pgvector; {wanted} or newer is needed.")
    if installed is None:
        _create_extension(connection)
    if tuple(map(int, version.split(".")[:3])) < _PGVECTOR_AT_LEAST:
        raise DatabaseUnavailable(f"The database has pgvector {version}; {wanted} or newer is needed.")


def _create_extension(connection: Connection) -> None:
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except ProgrammingError as error:
        raise DatabaseUnavailable(
            "The database lacks the extension pgvector, and this role may not create it: a superuser has to run"
            " CREATE EXTENSION vector in it once."
        ) from error


def _require_app_role(connection: Connection) -> None:
    """The role that every transaction becomes; roles are the whole server's, so that another database may have made it."""
    made = f"CREATE ROLE {APP_ROLE} NOLOGIN"
    granted = f"GRANT {APP_ROLE} TO CURRENT_USER"
    known = connection.scalar(text("SELECT count(*) FROM pg_roles WHERE rolname = :name"), {"name": APP_ROLE})
    try:
        with connection.begin_nested():
            if not known:
                connection.execute(text(made))
            if not connection.scalar(text("SELECT pg_has_role(CURRENT_USER, :name, 'MEMBER')"), {"name": APP_ROLE}):
                connection.execute(text(granted))
            # Who made a role may administer it, but not always become it.
            connection.execute(text(f"SET LOCAL ROLE {APP_ROLE}; SET LOCAL ROLE NONE"))
    except ProgrammingError as error:
        user = connection.scalar(text("SELECT quote_ident(CURRENT_USER)"))
        raise DatabaseUnavailable(
            f"The database's tenants are kept apart by the role {APP_ROLE}, which this role may not make or become:"
            f" a superuser has to run {made}; GRANT {APP_ROLE} TO {user} once."
        ) from error


def _config(connection: Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(PROJECT_ROOT / "migrations").replace("%", "%%"))
    return config
