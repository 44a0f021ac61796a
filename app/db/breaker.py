"""A circuit breaker: who cannot be reached is left alone for some seconds, so that nobody waits for him in vain."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import structlog

from app.errors import DatabaseBusy, DatabaseUnavailable

log = structlog.stdlib.get_logger("facedex.recognition")

_FAILURES: Final = 3
_RETRY_AFTER_S: Final = 3.0


class BreakerState(StrEnum):
    """What becomes of a call."""

    CLOSED = "closed"
    """It goes through."""

    OPEN = "open"
    """It fails at once."""

    HALF_OPEN = "half-open"
    """One goes through, to see; the others fail at once until it is back."""


class CircuitBreaker:
    """Opens after some connection errors in a row; every few seconds one call tries, and closes it when it gets through.

    Any other outcome, an error too, shows that the database is there. Calls are never held up by one another.
    """

    def __init__(
        self,
        *,
        failures: int = _FAILURES,
        retry_after_s: float = _RETRY_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._retry_after_s = retry_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def state(self) -> BreakerState:
        """As the last call left it."""
        return self._state

    @contextmanager
    def guard(self) -> Generator[None]:
        """Around each call to the database.

        Raises:
            DatabaseUnavailable: the breaker is open; the block was not entered.
        """
        self._enter()
        try:
            yield
        except DatabaseBusy:
            self._leave(reached=None)  # all connections in use says nothing about the server
            raise
        except DatabaseUnavailable:
            self._leave(reached=False)
            raise
        except Exception:
            self._leave(reached=True)
            raise
        except BaseException:
            self._leave(reached=None)  # the process is being ended
            raise
        self._leave(reached=True)

    def _enter(self) -> None:
        with self._lock:
            if self._state is BreakerState.CLOSED:
                return
            if self._clock() < self._retry_at_s:
                raise DatabaseUnavailable("The database could not be reached a moment ago.")
            # Should this one never come back, another may try after the same time.
            self._state = BreakerState.HALF_OPEN
            self._retry_at_s = self._clock() + self._retry_after_s

    def _leave(self, *, reached: bool | None) -> None:
        if reached is None or (reached and self._state is BreakerState.CLOSED and not self._failures):
            return
        with self._lock:
            before = self._state
            self._failures = 0 if reached else self._failures + 1
            if reached:
                self._state = BreakerState.CLOSED
            elif before is not BreakerState.CLOSED or self._failures >= self._limit:
                self._state = BreakerState.OPEN
                self._retry_at_s = self._clock() + self._retry_after_s
            after = self._state
        if BreakerState.CLOSED in (before, after) and before is not after:
            log.warning(
                "[RECOGNITION] The database " + ("is back" if reached else "cannot be reached"), breaker=after.value
            )
