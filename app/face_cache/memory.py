"""Extracted faces in the process's own memory."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final
from uuid import UUID

import sqlalchemy.exc
import structlog
from cachetools import TTLCache

from app.errors import DatabaseError
from app.face_cache.counts import EVICTIONS, LOOKUPS, PROCESS_ENTRIES
from app.face_cache.entry import EntryKey

log = structlog.stdlib.get_logger("facedex.face_cache")

CHECK_EVERY_S: Final = 5.0
"""So much later, at most, an idle process too has forgotten what an erasure has put out of date, or what is too old."""

Epochs = Callable[[Collection[UUID]], Mapping[UUID, int]]


class MemoryStore:
    """The entries used last, for a time that no use prolongs.

    Nobody tells the other processes what an erasure puts out of date; each asks the database, every few seconds while it has
    any entry, in a thread that begins with the first one and ends with the last. What cannot be asked about is not kept.

    Args:
        ttl_s: how long an entry is kept.
        entries: how many are.
        epochs: asks for the present `cache_epoch` of domains; may raise DatabaseError.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        ttl_s: float,
        entries: int,
        epochs: Epochs,
        *,
        clock: Callable[[], float] = time.monotonic,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        self._kept: TTLCache[EntryKey, bytes] = TTLCache(entries, ttl_s, timer=clock)
        self._size = entries
        self._epochs = epochs
        self._check_every_s = check_every_s
        self._lock = threading.Lock()
        self._checker: threading.Thread | None = None

    def get(self, key: EntryKey) -> bytes | None:
        """As `FaceStore.get`."""
        with self._lock:
            found = self._kept.get(key)
        LOOKUPS.labels("miss" if found is None else "hit").inc()
        return found

    def put(self, key: EntryKey, analysis: bytes) -> None:
        """As `FaceStore.put`."""
        with self._lock:
            self._kept.expire()
            full = len(self._kept) >= self._size and key not in self._kept
            self._kept[key] = analysis
            PROCESS_ENTRIES.set(len(self._kept))
            self._have_checker()
        if full:
            EVICTIONS.labels("full").inc()

    def observe(self) -> None:
        """As `FaceStore.observe`: there is nothing to do, the thread does it."""

    def check(self) -> int:
        """Forget what is too old or out of date. Returns how many entries are left."""
        with self._lock:
            self._kept.expire()
            keys = list(self._kept)
        uids = {key.domain.uid for key in keys}
        try:
            present: Mapping[UUID, int] = self._epochs(uids) if uids else {}
        except (DatabaseError, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning(f"[CACHE] Extracted faces are forgotten, as nobody knows their state: {type(error).__name__}")
            present = {}
        stale = [key for key in keys if present.get(key.domain.uid) != key.domain.epoch]
        with self._lock:
            gone = sum(self._kept.pop(key, None) is not None for key in stale)
            left = len(self._kept)
            PROCESS_ENTRIES.set(left)
        if gone:
            EVICTIONS.labels("outdated").inc(gone)
        return left

    def _have_checker(self) -> None:
        """Under the lock. A thread of before a fork is not alive after it."""
        if self._checker is None or not self._checker.is_alive():
            self._checker = threading.Thread(target=self._check_on, name="face-cache", daemon=True)
            self._checker.start()

    def _check_on(self) -> None:
        while True:
            time.sleep(self._check_every_s)
            self.check()
            with self._lock:
                if not self._kept:
                    self._checker = None
                    return
