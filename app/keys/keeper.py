"""Asks the database for keys, keeps the snapshot of them, and goes by it while the database gives no answer."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypeVar

import sqlalchemy.exc
import structlog
from sqlalchemy.orm import Session

from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.errors import DatabaseError, DatabaseUnavailable, FacedexError, KeyNotFound, KeysUnavailable
from app.keys.records import KeyRecord, find_record, usable_records
from app.keys.rows import end_known_key
from app.keys.snapshot import Moment, Revocation, Snapshot
from app.keys.snapshot_file import SnapshotFile
from app.names import as_uuid
from app.tenancy import acting, current_reach, everything

T = TypeVar("T")

log = structlog.stdlib.get_logger("facedex.keys")

# For a connection, and once more for the server, with the second that `Database.transaction` adds where that does not keep to
# it: an outage costs no request more.
_LIMIT_S: Final = 2.0
_LOCK_WAIT_S: Final = 5.0
_REFRESH_EVERY_S: Final = 30.0
_RETRY_AFTER_S: Final = 5.0
# A table, column or role that is missing: the database is there, and not migrated yet. SQLSTATEs.
_NOT_MIGRATED: Final = frozenset({"42P01", "42703", "22023", "42501"})


class KeyKeeper:
    """The keys of one installation, for one process of it."""

    def __init__(self, settings: Settings, database: Database, breaker: CircuitBreaker) -> None:
        self._max_age_s = settings.key_snapshot_max_age_s
        self._database = database
        self._breaker = breaker
        self._file = SnapshotFile(settings)
        self._refreshing = threading.Lock()
        self._next_refresh_s = 0.0
        self._outdated = False

    @property
    def snapshot(self) -> Snapshot | None:
        """What is in the file, however old."""
        return self._file.current()

    def is_fresh(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot may still be gone by."""
        return snapshot.is_fresh(Moment.now(), self._max_age_s)

    def find(self, prefix: str, limit_s: float) -> KeyRecord | None:
        """The key with that prefix: the database's, or, where that gives no answer, the snapshot's.

        Args:
            limit_s: the most to wait for the database.

        Raises:
            KeysUnavailable: neither can be asked.
        """
        head = self._file.head()
        try:
            record = self._ask(lambda session: find_record(session, prefix), min(limit_s, _LIMIT_S))
        except DatabaseError:
            return self._from_snapshot(prefix)
        if record is not None and head is not None and head.is_revoked(record.id):
            self.expect_change()  # the database is there, and has not been told yet
            return replace(record, revoked=True)
        return record

    def has_ended(self, key_id: str) -> bool:
        """Whether the snapshot, which is renewed with each revocation, does not have a key, or not any more.

        It may not have a new one yet: who hears so asks the database.
        """
        snapshot = self._file.current()
        if snapshot is None or as_uuid(key_id) is None:
            return False
        now = datetime.now(UTC)
        return not any(key.id == key_id and (key.expires_at is None or key.expires_at > now) for key in snapshot.keys)

    def refresh(self, wait_s: float = _LOCK_WAIT_S) -> Snapshot:
        """Tell the database what was revoked without it, and write down anew what it has.

        Raises:
            DatabaseError: it does not answer.
            SnapshotBusy: another process has been doing the same for so long.
            OSError: the file cannot be written.
        """
        with self._file.exclusive(wait_s):
            before = self._file.head()
            for revoked in before.revoked if before else ():
                self._tell(revoked)
            taken = Moment.now()
            snapshot = Snapshot(taken, tuple(self._ask(usable_records, _LIMIT_S)))
            self._file.write(snapshot)
        self._next_refresh_s = time.monotonic() + _REFRESH_EVERY_S
        return snapshot

    def expect_change(self) -> None:
        """The snapshot is out of date: renew it after the next answer, however young it is."""
        self._outdated = True
        self._next_refresh_s = 0.0

    def refresh_when_due(self) -> None:
        """As `refresh`, where that was last done half a minute ago, by whichever process; what goes wrong is logged."""
        if time.monotonic() < self._next_refresh_s or not self._refreshing.acquire(blocking=False):
            return
        outdated, self._outdated = self._outdated, False
        try:
            self._next_refresh_s = time.monotonic() + _RETRY_AFTER_S
            if outdated or not self._is_recent():
                self.refresh(wait_s=0)
        except (FacedexError, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            self._outdated |= outdated
            log.info(f"[KEYS] The snapshot of the keys was not renewed: {type(error).__name__}")
        finally:
            self._refreshing.release()

    def follow(self, key_id: str) -> None:
        """Bring the snapshot up to date after a change of a key; where that fails, the key is in it no more.

        Never raises: the change is made, and its answer may hold the only text of the key.
        """
        try:
            self.refresh()
        except (FacedexError, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            log.error(f"[KEYS] The snapshot of the keys was not renewed after a change: {type(error).__name__}")
            self.expect_change()
            self._drop(key_id)

    def revoke_without_database(self, which: str) -> KeyRecord:
        """Revoke a key in the snapshot, at once; the database is told when it is there again.

        Raises:
            KeyNotFound: the snapshot does not know it.
            KeysUnavailable: there is no snapshot, or the file cannot be written.
        """
        found: list[KeyRecord] = []

        def revoked(snapshot: Snapshot) -> Snapshot:
            key = snapshot.find(which) or next((key for key in snapshot.keys if key.id == which), None)
            if key is None:
                raise KeyNotFound(f"The snapshot of the keys has no key {which!r}.")
            found.append(key)
            return snapshot.without(key.id, datetime.now(UTC), current_reach().client)

        self._rewrite(revoked, missing="There is no snapshot of the keys, and the database cannot be asked.")
        return found[0]

    def renew_without_database(self) -> Snapshot:
        """Sign the snapshot anew as it is: the operator vouches for it.

        Raises:
            KeysUnavailable: there is none.
        """
        missing = "There is no snapshot of the keys that could be renewed, and the database cannot be asked."
        self._rewrite(lambda snapshot: replace(snapshot, taken=Moment.now()), missing=missing)
        snapshot = self._file.current()
        assert snapshot is not None
        return snapshot

    def _drop(self, key_id: str) -> None:
        try:
            self._rewrite(lambda snapshot: snapshot.dropping(key_id))
        except KeysUnavailable as error:
            log.error(f"[KEYS] An outage now would not know of that change: {error}")

    def _is_recent(self) -> bool:
        head = self._file.head()
        if head is None or head.revoked:
            return False
        return 0 <= head.taken.age_s(Moment.now()) < _REFRESH_EVERY_S

    def _rewrite(self, change: Callable[[Snapshot], Snapshot], missing: str | None = None) -> None:
        try:
            with self._file.exclusive(_LOCK_WAIT_S):
                snapshot = self._file.current()
                if snapshot is not None:
                    self._file.write(change(snapshot))
                elif missing is not None:
                    raise KeysUnavailable(missing)
        except OSError as error:
            raise KeysUnavailable(f"The snapshot of the keys cannot be written: {error.strerror}.") from error

    def _from_snapshot(self, prefix: str) -> KeyRecord | None:
        snapshot = self._file.current()
        if snapshot is None or not self.is_fresh(snapshot):
            raise KeysUnavailable("API keys cannot be checked now; try again later.")
        return snapshot.find(prefix)

    def _tell(self, revoked: Revocation) -> None:
        # A transaction each: of several keys, each with its chains, two processes could wait for each other's.
        self._ask(lambda session: end_known_key(session, revoked.key_id, revoked.at, revoked.by), _LIMIT_S)

    def _ask(self, work: Callable[[Session], T], limit_s: float) -> T:
        """One transaction that sees every key, of at most that long."""
        try:
            with (
                acting(everything("auth")),
                self._breaker.guard(),
                self._database.transaction(limit_s) as session,
            ):
                return work(session)
        except sqlalchemy.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _NOT_MIGRATED:
                raise
            raise DatabaseUnavailable("The database has not been migrated yet.") from error
