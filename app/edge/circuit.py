"""Leaves a service alone that fails, and tries it again after a while."""

import threading
from typing import Literal

from app.edge.clock import Clock

State = Literal["closed", "open", "trying"]


class Circuit:
    """Closed: everybody may ask. After some failures in a row it is open: nobody asks, for a while that doubles with each
    failure. Then one asker tries; its success closes it, its failure opens it again.

    Args:
        open_after: failures in a row.
        retry_after_s, retry_after_max_s: the first while, and the longest.
    """

    def __init__(self, clock: Clock, open_after: int, retry_after_s: float, retry_after_max_s: float) -> None:
        self._clock = clock
        self._open_after = open_after
        self._retry_after_s = retry_after_s
        self._retry_after_max_s = retry_after_max_s
        self._lock = threading.Lock()
        self._failures = 0
        self._retry_at_s = 0.0
        self._trying = False

    @property
    def state(self) -> State:
        """As of now."""
        with self._lock:
            if self._failures < self._open_after:
                return "closed"
            return "trying" if self._trying else "open"

    def may_ask(self) -> bool:
        """Whether the caller may ask now; who may has to say how it went, by `succeeded` or `failed`."""
        with self._lock:
            if self._failures < self._open_after:
                return True
            if self._trying or self._clock.monotonic() < self._retry_at_s:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        """It answered."""
        with self._lock:
            self._failures, self._trying = 0, False

    def failed(self) -> None:
        """It did not."""
        with self._lock:
            self._failures += 1
            self._trying = False
            further = self._failures - self._open_after
            if further >= 0:
                wait_s = min(self._retry_after_s * 2 ** min(further, 30), self._retry_after_max_s)
                self._retry_at_s = self._clock.monotonic() + wait_s
