"""Events of what changes nothing: recognitions and verifications, noted when the answer is known.

Nobody goes without an answer because its event could not be stored: the people in front of a door would pay for a full
disk. Such an event is an error in the log, and `facedex_audit_events_total{outcome="lost"}` counts it.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import sqlalchemy.exc
import structlog

from app.audit.chain import append_alone
from app.audit.event import Detail, Event, event_now
from app.audit.retention import prune_all
from app.audit.spool import Spool, Spooled
from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.session import Database
from app.errors import DatabaseError, FacedexError

log = structlog.stdlib.get_logger("facedex.audit")

# The answer waits for it: a database that needs longer is told later.
_LIMIT_S: Final = 2.0
_TEND_EVERY_S: Final = 5.0
_PRUNE_ROUNDS: Final = 20


class Noted(StrEnum):
    """What became of an event."""

    STORED = "stored"
    """It is in its chain."""

    SPOOLED = "spooled"
    """It waits in a file for the database."""

    LOST = "lost"
    """Neither could take it."""


class AuditLog:
    """Where recognitions and verifications leave their events.

    Args:
        breaker: the one of all who ask the database: one that is away is not waited for.
    """

    def __init__(self, settings: Settings, database: Database, breaker: CircuitBreaker) -> None:
        self._enabled = settings.vector_db_enabled
        self._retention_days = settings.audit_retention_days
        self._database = database
        self._breaker = breaker
        self.spool = Spool(settings.audit_dir)
        self._tending = threading.Lock()
        self._tended_s = float("-inf")
        self._pruned_on = datetime.min.date()

    def note(
        self,
        action: str,
        details: Mapping[str, Detail],
        *,
        domain: str | None = None,
        persons: Sequence[UUID] = (),
        away: bool = False,
    ) -> Noted:
        """Append an event in a transaction of its own or, while the database is away, to the spool; raises for neither.

        Args:
            action, details, persons: as `app.audit.record`.
            domain: its name; None for the installation. One that is only a dataset goes to the installation's chain.
            away: the database was just found to be away: it is not asked again.
        """
        event = event_now(action, persons, details)
        if self._enabled and not away:
            try:
                self._append(event, domain)
            except (FacedexError, sqlalchemy.exc.SQLAlchemyError) as error:
                log.info(f"[AUDIT] The event waits in the spool: {type(error).__name__}")
            else:
                self._tend_later()
                return Noted.STORED
        return self._spool(Spooled(event, domain))

    def tend(self) -> bool:
        """Move what waits into the chains, and prune those that are due; what fails is tried again later.

        Returns:
            whether nothing is left to prune today.
        """
        try:
            self.spool.move_into(self._database)
            return not prune_all(self._database, retention_days=self._retention_days, max_rounds=_PRUNE_ROUNDS).more
        except (DatabaseError, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            log.warning(f"[AUDIT] Not tended: {error}")
            return False

    def _append(self, event: Event, domain: str | None) -> None:
        with self._breaker.guard():
            append_alone(self._database, event, domain, _LIMIT_S)

    def _spool(self, spooled: Spooled) -> Noted:
        try:
            if self.spool.add(spooled):
                return Noted.SPOOLED
            reason = "the spool is full"
        except OSError as error:
            reason = error.strerror or str(error)
        log.error(f"[AUDIT] An event is lost: {reason}", action=spooled.event.action)
        return Noted.LOST

    def _tend_later(self) -> None:
        """In a thread of its own, one at a time: nobody's answer waits for it."""
        today = datetime.now(UTC).date()
        pruned = self._pruned_on == today or not self._retention_days
        if (pruned and not self.spool.waiting) or time.monotonic() - self._tended_s < _TEND_EVERY_S:
            return
        if not self._tending.acquire(blocking=False):
            return
        self._tended_s = time.monotonic()

        def work() -> None:
            try:
                if self.tend():
                    self._pruned_on = today
            finally:
                self._tending.release()

        try:
            threading.Thread(target=work, name="audit", daemon=True).start()
        except RuntimeError as error:  # no thread can be started now
            self._tending.release()
            log.warning(f"[AUDIT] Not tended: {error}")
