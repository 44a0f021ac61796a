"""Runs of migrations: one at a time per domain, each with its checkpoint in the same transaction as the rows it counts."""

import hashlib
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import Domain, MigrationRun
from app.db.session import Database
from app.errors import MigrationRunning, MigrationUnfinished

Number = TypeVar("Number", int, float)

# The server lets go of a killed process's lock once it notices: at once when idle, or at the next of its checks.
_WAIT_FOR_LOCK_S: Final = 6.0
_NOTICE_LOST_CLIENT: Final = "2s"
_POLL_S: Final = 0.2
_DIGEST_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as status reports show it.

    Attributes:
        source: name of the dataset's file.
        mode: `copy` or `reembed`.
        state: `running`, `finished`, `failed`, or `interrupted`: its process ended without a word.
        rows_total: rows of the dataset; until the end, about so many.
        rows_done: rows that are settled, migrated or skipped.
        rows_migrated: rows that became templates.
        skipped: rows that did not, by reason.
        seconds: by stage, over all attempts.
        error: code of the error that ended the last attempt.
    """

    source: str
    mode: str
    state: str
    rows_total: int | None
    rows_done: int
    rows_migrated: int
    skipped: dict[str, int]
    seconds: dict[str, float]
    error: str | None
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one transaction of a run settles.

    Attributes:
        rows: rows of the dataset.
        migrated: of them, how many became templates.
        persons: how many persons were made for them.
        skipped: rows that did not, by reason.
        seconds: by stage.
    """

    rows: int
    migrated: int
    persons: int
    skipped: Mapping[str, int]
    seconds: Mapping[str, float]


@contextmanager
def migration_lock(database: Database, domain: str) -> Generator[Connection]:
    """Keep other migrations away from the domain of that name, which need not exist yet.

    Yields:
        A connection as of `Database.maintenance`. The lock ends with it, also when this process is killed.

    Raises:
        MigrationRunning: another process holds it.
        DatabaseUnavailable: no connection, or it was lost.
    """
    with database.maintenance() as connection:
        # Not every server can: then its statements only end when they are done.
        connection.execute(
            text("SELECT set_config(name, :interval, false) FROM pg_settings WHERE name = :name"),
            {"name": "client_connection_check_interval", "interval": _NOTICE_LOST_CLIENT},
        )
        until_s = time.monotonic() + _WAIT_FOR_LOCK_S
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _lock_key(domain)}):
            if time.monotonic() > until_s:
                raise MigrationRunning(f"Another migration into the domain {domain!r} is running.")
            time.sleep(_POLL_S)
        yield connection


def open_run(
    session: Session, domain_id: int, *, source: str, sha256: str, mode: str, rows_total: int | None, alone: bool
) -> MigrationRun:
    """The run of this dataset into the domain: the one that was broken off, or a new one. The caller holds the lock.

    Args:
        alone: refuse while another dataset's run is unfinished: the domain would be called complete without it.

    Raises:
        MigrationUnfinished: see `alone`; or the run was begun in the other mode.
    """
    unfinished = list(
        session.scalars(
            select(MigrationRun).where(MigrationRun.domain_id == domain_id, MigrationRun.state != "finished")
        )
    )
    run = next((run for run in unfinished if run.source_sha256.hex() == sha256), None)
    others = [other for other in unfinished if other is not run]
    if alone and others:
        begun, given = _named(others[0].source_name, others[0].source_sha256.hex()), _named(source, sha256)
        raise MigrationUnfinished(
            f"A migration of another dataset has not been finished: of {begun}, and this is {given}. Run it again with that"
            " very file, or delete the domain and begin anew."
        )
    if run is None:
        run = MigrationRun(
            domain_id=domain_id,
            source_name=source,
            source_sha256=bytes.fromhex(sha256),
            mode=mode,
            rows_total=rows_total,
        )
        session.add(run)
    elif run.mode != mode:
        raise MigrationUnfinished(
            f"The migration of this dataset was begun with --mode {run.mode}: finish it with that."
        )
    run.state, run.error_code = "running", None
    session.flush()
    session.refresh(run)
    return run


def has_run(session: Session, domain_id: int, sha256: str, *, finished: bool) -> bool:
    """Whether a run of this dataset into the domain was finished, or was broken off or goes on."""
    query = select(MigrationRun.id).where(
        MigrationRun.domain_id == domain_id,
        MigrationRun.source_sha256 == bytes.fromhex(sha256),
        (MigrationRun.state == "finished") if finished else (MigrationRun.state != "finished"),
    )
    return session.scalar(query) is not None


def advance(session: Session, run: MigrationRun, step: Step) -> MigrationRun:
    """Move the checkpoint, in the transaction that stores the rows. Returns the run as it then is.

    Raises:
        MigrationRunning: somebody else has moved it; nothing of this transaction may stay.
    """
    return _change(
        session,
        run,
        rows_done=run.rows_done + step.rows,
        rows_migrated=run.rows_migrated + step.migrated,
        persons=run.persons + step.persons,
        skipped=added(run.skipped, step.skipped),
        seconds=added(run.seconds, step.seconds),
    )


def finish(
    session: Session, run: MigrationRun, *, skipped: Mapping[str, int], seconds: Mapping[str, float]
) -> MigrationRun:
    """Mark the run as finished; `skipped` and `seconds` are added.

    Raises:
        MigrationRunning: somebody else has moved the checkpoint.
    """
    return _change(
        session,
        run,
        state="finished",
        finished_at=func.now(),
        rows_total=run.rows_done,
        skipped=added(run.skipped, skipped),
        seconds=added(run.seconds, seconds),
    )


def fail(session: Session, run_id: int, code: str) -> None:
    """Note which error ended the attempt."""
    session.execute(
        update(MigrationRun)
        .where(MigrationRun.id == run_id, MigrationRun.state == "running")
        .values(state="failed", error_code=code, updated_at=func.now())
    )


def latest_run(session: Session, domain_id: int, domain: str) -> RunStatus | None:
    """The status of the domain's last run; None where nothing was ever migrated into it."""
    query = select(MigrationRun).where(MigrationRun.domain_id == domain_id).order_by(MigrationRun.id.desc()).limit(1)
    run = session.scalars(query).first()
    return None if run is None else _status(session, run, domain)


def latest_runs(session: Session, *, limit: int) -> list[tuple[str, RunStatus]]:
    """The last run of each domain within reach, with the domain's name; those that have gone on last stand first."""
    last = select(func.max(MigrationRun.id)).group_by(MigrationRun.domain_id)
    query = (
        select(MigrationRun, Domain.name)
        .join(Domain, Domain.id == MigrationRun.domain_id)
        .where(MigrationRun.id.in_(last))
        .order_by(MigrationRun.updated_at.desc(), MigrationRun.id)
        .limit(limit)
    )
    return [(domain, _status(session, run, domain)) for run, domain in session.execute(query)]


def _status(session: Session, run: MigrationRun, domain: str) -> RunStatus:
    abandoned = run.state == "running" and not _is_locked(session, domain)
    return RunStatus(
        source=run.source_name,
        mode=run.mode,
        state="interrupted" if abandoned else run.state,
        rows_total=run.rows_total,
        rows_done=run.rows_done,
        rows_migrated=run.rows_migrated,
        skipped=run.skipped,
        seconds=run.seconds,
        error=run.error_code,
        started_at=run.started_at,
        updated_at=run.updated_at,
        finished_at=run.finished_at,
    )


def added(one: Mapping[str, Number], other: Mapping[str, Number]) -> dict[str, Number]:
    """The sums, key by key."""
    return {key: one.get(key, 0) + other.get(key, 0) for key in [*one, *(key for key in other if key not in one)]}


def _change(session: Session, run: MigrationRun, **values: Any) -> MigrationRun:
    """Change the run as it was read, and only so: whoever lost the lock unnoticed must not count rows twice."""
    changed = session.execute(
        update(MigrationRun)
        .where(
            MigrationRun.id == run.id,
            MigrationRun.rows_done == run.rows_done,
            MigrationRun.state == "running",
        )
        .values(**values, updated_at=func.now())
        .returning(MigrationRun),
        execution_options={"populate_existing": True, "synchronize_session": False},
    ).scalar_one_or_none()
    if changed is None:
        raise MigrationRunning("Another process has taken over this migration.")
    return changed


def _is_locked(session: Session, domain: str) -> bool:
    key = _lock_key(domain) & 0xFFFFFFFFFFFFFFFF
    query = text(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND CAST(classid AS bigint) = :high AND CAST(objid AS bigint) = :low)"
    )
    return bool(session.scalar(query, {"high": key >> 32, "low": key & 0xFFFFFFFF}))


def _named(source: str, sha256: str) -> str:
    """A file's name and the beginning of its digest: two datasets of one model mostly have the same name."""
    return f"{source!r} (SHA-256 {sha256[:_DIGEST_DIGITS]}…)"


def _lock_key(domain: str) -> int:
    """The domain's advisory lock: by name, since it is taken before the domain has an id."""
    digest = hashlib.sha256(b"facedex migration\0" + domain.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
