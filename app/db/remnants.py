"""What PostgreSQL keeps of deleted rows: pages of tables and indexes, and the write-ahead log; rewritten on demand.

`VACUUM (FULL)` writes a table and its indexes anew, without what was deleted; a checkpoint removes the segments of the log
before it. Source: https://www.postgresql.org/docs/18/sql-vacuum.html and /wal-configuration.html.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.db.partitions import partition_name
from app.db.session import Database, driver_reason
from app.errors import DatabaseTimeout, DatabaseUnavailable

# Who waits for an exclusive lock makes all others wait behind it.
_LOCK_TIMEOUT: Final = "30s"
_OLDER_END_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.5
_TABLES: Final = (
    "persons",
    "face_rejections",
    "reference_photos",
    "jobs",
    "job_files",
    "face_sessions",
    "face_session_frames",
    "idempotent_requests",
    "idempotent_faces",
    "erasures",
)
_PARTITIONS_SQL: Final = "SELECT id FROM domains WHERE :domain_id IS NULL OR id = :domain_id ORDER BY id"
# Transactions that began before may still see the deleted rows: these would be written anew with the others.
_OLDER_SQL: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND xact_start < CAST(:since AS timestamptz)
"""
# The names of segments without their timeline sort as the log does.
_SEGMENT_SQL: Final = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 9)"
_SEGMENTS_SQL: Final = "SELECT substr(name, 9) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY 1"

Progress = Callable[[str], None]


def purge(database: Database, domain_id: int | None, progress: Progress) -> list[tuple[str, str]]:
    """Rewrite what held deleted rows; searches and enrolments of the domain wait while its own table is rewritten.

    Args:
        domain_id: whose templates; None: everybody's.
        progress: is told what is being rewritten.

    Returns:
        What could not be rewritten, and why.

    Raises:
        DatabaseUnavailable: no connection, or it was lost.
    """
    with database.maintenance() as connection:
        connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
        left = _wait_for_older(connection, progress)
        domains = connection.scalars(text(_PARTITIONS_SQL), {"domain_id": domain_id}).all()
        for table in (*map(partition_name, domains), *_TABLES):
            progress(f"rewriting {table}")
            # The second one notes what indexes need to do without the table; nothing else has cause to.
            left += _tried(connection, table, [f"VACUUM (FULL) {table}", f"VACUUM (ANALYZE) {table}"])
        return left + _purge_log(connection, progress)


def _wait_for_older(connection: Connection, progress: Progress) -> list[tuple[str, str]]:
    since = connection.scalar(text("SELECT CAST(clock_timestamp() AS text)"))
    until_s = time.monotonic() + _OLDER_END_WITHIN_S
    while connection.scalar(text(_OLDER_SQL), {"since": since}):
        if time.monotonic() > until_s:
            return [("database_files", "A transaction from before has not ended, and may keep deleted rows.")]
        progress("waiting for transactions that began before")
        time.sleep(_POLL_S)
    return []


def _purge_log(connection: Connection, progress: Progress) -> list[tuple[str, str]]:
    """Have the segments removed that are there now, and those that were to be used again."""
    progress("removing segments of the write-ahead log")
    left = _tried(connection, "write_ahead_log", ["CHECKPOINT"])
    if left:
        return left
    try:
        segments: Sequence[str] = connection.scalars(text(_SEGMENTS_SQL)).all()
        last = max([*segments, connection.scalar(text(_SEGMENT_SQL))])
        while (connection.scalar(text(_SEGMENT_SQL)) or "") <= last:
            # A switch needs something to have been written since the one before. It fills the segment up with zeros.
            connection.execute(text("SELECT pg_logical_emit_message(false, 'facedex', 'purge', true)"))
            connection.execute(text("SELECT pg_switch_wal()"))
            connection.execute(text("SELECT pg_logical_emit_message(false, 'facedex', 'purge', true)"))
        connection.execute(text("CHECKPOINT"))
        kept = [name for name in connection.scalars(text(_SEGMENTS_SQL)) if name <= last]
    except DBAPIError as error:
        return [("write_ahead_log", f"Segments are removed in the course of time only: {driver_reason(error)}")]
    why = f"{len(kept)} segments are kept by the server: for a replica, an archive or wal_keep_size."
    return [("write_ahead_log", why)] if kept else []


def _tried(connection: Connection, place: str, statements: list[str]) -> list[tuple[str, str]]:
    try:
        for statement in statements:
            connection.execute(text(statement))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return [(place, f"It could not be rewritten: {driver_reason(error)}")]
    except (DatabaseTimeout, DatabaseUnavailable) as error:
        return [(place, str(error))]
    return []
