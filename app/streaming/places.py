"""How many streams a process has open, and each client."""

import threading
from collections import Counter
from collections.abc import Callable

from app.errors import StreamsFull, TooManyStreams
from app.streaming.metrics import OPEN

_SHARE = 0.75


class Places:
    """Places for streams; one client takes three quarters of them at most, at least one.

    Args:
        most: of all clients together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, int(most * _SHARE))
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> "Place":
        """Take a place, before it is known for whom.

        Raises:
            StreamsFull: there is none.
        """
        with self._lock:
            if self._taken >= self._most:
                raise StreamsFull("As many streams as this process serves are open; try again shortly.")
            self._taken += 1
        OPEN.inc()
        return Place(self._claim, self._release)

    def _claim(self, client: str) -> None:
        with self._lock:
            if self._held[client] >= self._most_of_one:
                raise TooManyStreams(f"This client has {self._most_of_one} streams open already.")
            self._held[client] += 1

    def _release(self, client: str | None) -> None:
        with self._lock:
            self._taken -= 1
            if client is not None:
                self._held[client] -= 1
                if not self._held[client]:
                    del self._held[client]
        OPEN.dec()


class Place:
    """One place."""

    def __init__(self, claim: Callable[[str], None], release: Callable[[str | None], None]) -> None:
        self._claim = claim
        self._give_back: Callable[[str | None], None] | None = release
        self._client: str | None = None

    def belongs_to(self, client: str) -> None:
        """Say whose it is.

        Raises:
            TooManyStreams: they have as many as one client may.
        """
        self._claim(client)
        self._client = client

    def release(self) -> None:
        """Give it back; once is enough."""
        if (give_back := self._give_back) is not None:
            self._give_back = None
            give_back(self._client)
