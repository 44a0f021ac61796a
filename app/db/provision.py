"""What the embedded server must hold before the migrations: our role, its database, and the extension."""

from typing import Any, Final

import psycopg
from psycopg import Connection, sql

from app.db.server_files import DATABASE, ROLE, SUPERUSER, ServerFiles, ensure_key
from app.db.unit import APP_ROLE

_CONNECT_TIMEOUT_S: Final = 10


def connect_as_superuser(files: ServerFiles, database: str = SUPERUSER) -> Connection[Any]:
    """A connection of the superuser, in autocommit.

    Raises:
        psycopg.OperationalError: the server does not accept it, or not yet.
        DatabaseUnavailable: the password's file is missing.
    """
    url = files.url(SUPERUSER, database)
    return psycopg.connect(
        host=str(files.socket),
        user=url.username,
        password=str(url.password),
        dbname=database,
        connect_timeout=_CONNECT_TIMEOUT_S,
        autocommit=True,
    )


def provision(files: ServerFiles) -> None:
    """Make what is missing and bring the extension to the version of the program. Repeating it changes nothing."""
    with connect_as_superuser(files) as connection:
        _ensure_role(connection, ensure_key(files.role_key))
        _ensure_app_role(connection)
        if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(ROLE))
            )
    with connect_as_superuser(files, DATABASE) as connection:
        # Only a superuser may: the extension is not a trusted one.
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        # For `flask purge`: rows that were deleted leave the write-ahead log when its segments are removed.
        connection.execute(sql.SQL("GRANT pg_checkpoint TO {}").format(sql.Identifier(ROLE)))
        for function in ("pg_switch_wal()", "pg_ls_waldir()"):
            connection.execute(
                sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(function), sql.Identifier(ROLE))
            )
        outdated = "SELECT 1 FROM pg_available_extensions WHERE name = %s AND installed_version <> default_version"
        if _exists(connection, outdated, "vector"):
            connection.execute("ALTER EXTENSION vector UPDATE")


def _ensure_role(connection: Connection[Any], password: str) -> None:
    """Our role, which is no superuser, with the password of its file, whatever it was before."""
    if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
        connection.execute(sql.SQL("CREATE ROLE {} NOSUPERUSER NOCREATEDB NOCREATEROLE").format(sql.Identifier(ROLE)))
    # Hashed here: the password itself never stands in a statement, which the server may log.
    verifier = connection.pgconn.encrypt_password(password.encode(), ROLE.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(verifier)))


def _ensure_app_role(connection: Connection[Any]) -> None:
    """The role that our transactions become, which owns nothing (`Database.transaction`)."""
    role = sql.Identifier(APP_ROLE)
    if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", APP_ROLE):
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE").format(role))
    connection.execute(sql.SQL("GRANT {} TO {}").format(role, sql.Identifier(ROLE)))


def _exists(connection: Connection[Any], query: str, name: str) -> bool:
    return connection.execute(query.encode(), (name,)).fetchone() is not None
