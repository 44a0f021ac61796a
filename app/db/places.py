"""Who may use a connection of the pool now: one tenant never gets all of them, so that the others are served beside it."""

import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from app.errors import DatabaseBusy

_SHARE: Final = 0.75


class Places:
    """As many places as the pool has connections; who holds one finds a connection free, and waits for it no more.

    So time that is spent on waiting for others is never held against the server.

    Args:
        size: of all of them.
        most: of one holder.
    """

    def __init__(self, size: int, most: int) -> None:
        self._size = size
        self._most = most
        self._held: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def held(self, holder: str, wait_s: float) -> Generator[None]:
        """Hold a place in the block.

        Raises:
            DatabaseBusy: none became free for this holder in time.
        """
        self._take(holder, wait_s)
        try:
            yield
        finally:
            self._give_back(holder)

    def _take(self, holder: str, wait_s: float) -> None:
        until_s = time.monotonic() + wait_s
        with self._changed:
            while self._held.total() >= self._size or self._held[holder] >= self._most:
                if not self._changed.wait(until_s - time.monotonic()) and time.monotonic() >= until_s:
                    raise DatabaseBusy("No database connection became free in time.")
            self._held[holder] += 1

    def _give_back(self, holder: str) -> None:
        with self._changed:
            self._held[holder] -= 1
            if self._held[holder] <= 0:
                del self._held[holder]
            self._changed.notify_all()  # the one that has waited longest may have its share already


def share_of(size: int) -> int:
    """How many of so many connections one tenant gets: three quarters, at least one."""
    return max(1, int(size * _SHARE))
