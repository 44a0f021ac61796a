"""Requests of many pictures, and measurements of galleries, take long: some threads of the web are left for all others."""

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from app.errors import PoolBusy

_SHARE: Final = 4
_KEPT_SHARE: Final = 4


class LongRequests:
    """Places for the long requests of one web process: a quarter of its threads, at least one.

    A quarter of the places, at least one where there are two, are only for clients that have none: who sends many long requests
    leaves room for the first ones of others, and a client that is alone gets nearly all.

    Args:
        threads: of the process.
    """

    def __init__(self, threads: int) -> None:
        self._free = max(1, threads // _SHARE)
        self._kept = max(1, self._free // _KEPT_SHARE) if self._free > 1 else 0
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def place(self, client: str) -> Generator[None]:
        """Hold a place; to be taken before the pictures are read, which may be long.

        Raises:
            PoolBusy: there is none for this client now.
        """
        with self._lock:
            if self._free <= (self._kept if self._held[client] else 0):
                raise PoolBusy("Too many long requests are in work; try again shortly.")
            self._free -= 1
            self._held[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._free += 1
                self._held[client] -= 1
                if not self._held[client]:
                    del self._held[client]
