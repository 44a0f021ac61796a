"""Removes what is kept for a time, once that is over: answers to idempotency keys, sessions with their frames, tombstones."""

import threading
import time
from abc import ABC, abstractmethod
from typing import Final

import sqlalchemy.exc
import structlog
from flask import Flask, Response

from app.config import Settings
from app.db.breaker import CircuitBreaker
from app.db.idempotency import sweep as sweep_answers
from app.db.session import Database
from app.errors import DatabaseError
from app.gallery_feed.service import GalleryFeed
from app.sessions.service import SessionService
from app.tenancy import acting, everything

log = structlog.stdlib.get_logger("facedex.api")

_EVERY_S: Final = 60.0
_ROWS: Final = 500
# More than a process can be asked to keep in a minute; what is left all the same goes a minute later.
_ROUNDS: Final = 40
_LIMIT_S: Final = 2.0


class MinutelySweep(ABC):
    """Sweeps once a minute and process."""

    def __init__(self, what: str, enabled: bool) -> None:
        self._what = what
        self._enabled = enabled
        self._sweeping = threading.Lock()
        self._next_s = 0.0

    def sweep_when_due(self) -> None:
        """As `sweep`, where this process last did so a minute ago; what goes wrong is logged."""
        if not self._enabled or time.monotonic() < self._next_s or not self._sweeping.acquire(blocking=False):
            return
        try:
            self._next_s = time.monotonic() + _EVERY_S
            self.sweep()
        except (DatabaseError, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning(f"[API] {self._what} stay for now: {type(error).__name__}")
        finally:
            self._sweeping.release()

    @abstractmethod
    def sweep(self) -> int:
        """Remove all that is too old. Returns how many.

        Raises:
            DatabaseError: what was removed stays removed.
        """


class AnswerSweep(MinutelySweep):
    """What is older than IDEMPOTENCY_KEEP_S goes."""

    def __init__(self, settings: Settings, database: Database, breaker: CircuitBreaker) -> None:
        super().__init__("Old idempotency keys", settings.vector_db_enabled)
        self._keep_s = settings.idempotency_keep_s
        self._database = database
        self._breaker = breaker

    def sweep(self) -> int:
        """Remove all that is too old, some at a time. Returns how many.

        Raises:
            DatabaseError: what was removed stays removed.
        """
        removed = 0
        for _ in range(_ROUNDS):
            with (
                acting(everything("idempotency")),
                self._breaker.guard(),
                self._database.transaction(_LIMIT_S) as session,
            ):
                last = sweep_answers(session, keep_s=self._keep_s, limit=_ROWS)
            removed += last
            if last < _ROWS:
                break
        return removed


class SessionSweep(MinutelySweep):
    """Sessions whose time is over end, and their frames go; what ended days ago goes too."""

    def __init__(self, settings: Settings, sessions: SessionService, breaker: CircuitBreaker) -> None:
        super().__init__("Expired sessions", settings.vector_db_enabled)
        self._sessions = sessions
        self._breaker = breaker

    def sweep(self) -> int:
        """As `MinutelySweep.sweep`."""
        with self._breaker.guard():
            return self._sessions.sweep()


class GallerySweep(MinutelySweep):
    """Who has been gone from a gallery for GALLERY_TOMBSTONES_KEEP_S is forgotten."""

    def __init__(self, settings: Settings, feed: GalleryFeed, breaker: CircuitBreaker) -> None:
        super().__init__("Old tombstones", settings.vector_db_enabled)
        self._feed = feed
        self._breaker = breaker

    def sweep(self) -> int:
        """As `MinutelySweep.sweep`."""
        with self._breaker.guard():
            return self._feed.prune(_ROWS)


def register_sweeps(app: Flask, *sweeps: MinutelySweep) -> None:
    """Sweep after any answer has been sent, so that nobody waits for it: old answers go though nobody sends a key any more."""

    @app.after_request
    def _sweep(response: Response) -> Response:
        if not response.direct_passthrough:  # such answers tell nobody that they have been sent
            for sweep in sweeps:
                response.call_on_close(sweep.sweep_when_due)
        return response
