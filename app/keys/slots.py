"""How many requests of one key are in work at once, in one process."""

import threading
from collections import Counter
from typing import Final

from app.config import Settings
from app.errors import TooManyRequests

_SHARE: Final = 0.75


class Slots:
    """Places for the requests of each key, so that one client's cannot take all threads.

    Args:
        most: of one key.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, client: str) -> None:
        """Take a place.

        Raises:
            TooManyRequests: there is none for this key now.
        """
        with self._lock:
            if self._held[client] >= self._most:
                raise TooManyRequests(
                    f"This key has {self._most} requests in work already; try again when one is answered."
                )
            self._held[client] += 1

    def release(self, client: str) -> None:
        """Give a place back."""
        with self._lock:
            self._held[client] -= 1
            if self._held[client] <= 0:
                del self._held[client]

    @property
    def in_use(self) -> int:
        """Places that are taken, of all keys."""
        with self._lock:
            return self._held.total()


def places_of_a_key(settings: Settings) -> int:
    """`KEY_MAX_CONCURRENT`, or three quarters of a process's threads, at least one."""
    return settings.key_max_concurrent or max(1, int(settings.web_threads * _SHARE))
