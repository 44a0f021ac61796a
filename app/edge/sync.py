"""Keeps the gallery up to date: from the local file first, then by what its source says has changed; never in anybody's way."""

import gc
import random
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog

from app.edge.clock import Clock
from app.edge.errors import EdgeError, SourceWithdrawn
from app.edge.gallery import Changes, Gallery
from app.edge.members import GalleryDelta, Member
from app.edge.snapshot import Snapshot
from app.edge.sources import Source
from app.edge.sources.file import CacheFile

log = structlog.stdlib.get_logger("facedex.edge.sync")

# Not each of many new members wears the disk; who is gone, or may open something else, is written sooner.
_SAVE_ADDED_S: Final = 60.0
_SAVE_OTHERS_S: Final = 5.0
# A file that nothing changes in is written again at this share of the age that it may reach.
_REFRESH_SHARE: Final = 0.25
# Controllers that were started together do not ask together.
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class SyncState:
    """What health says of it.

    Attributes:
        source: the source's name.
        version: of what the gallery holds; None before anything came.
        right_at: when the gallery was last known to be right, Unix seconds; None: never.
        from_cache: nothing has come from the source itself since the start.
        failures: of the source, one after the other, since the last success.
        error: what the last attempt failed of; None where it did not.
        cache_error: why the file could not be read or written last; None where it could.
        unusable: members of the source whose templates cannot be used, as far as it has told of them since the start.
        saved_at: when the file was last written by this process, Unix seconds; None: not yet.
    """

    source: str
    version: str | None = None
    right_at: float | None = None
    from_cache: bool = False
    failures: int = 0
    error: str | None = None
    cache_error: str | None = None
    unusable: int = 0
    saved_at: float | None = None

    def staleness_s(self, now: float) -> float | None:
        """For how long nobody has said that the gallery is right; None: nobody ever has."""
        return None if self.right_at is None else max(0.0, now - self.right_at)


class GallerySync:
    """Brings changes from a source to a gallery, and from the gallery to a file.

    Whatever fails, the gallery stays as it is: recognition goes on with what there was, and `state` says since when. Not for
    ever: what nobody has said to be right for `max_age_s` is given to nobody, and what the source has withdrawn is removed.

    Args:
        gallery: written here alone; who recognises takes `snapshot` and `member` from here.
        cache: None: nothing is kept, and each start needs the source.
        interval_s: from the end of one attempt to the next.
        max_age_s: for how long what was right is given out.
        withdrawn_keep_s: for how long the source may say that this controller may have nothing before that is believed.
    """

    def __init__(
        self,
        gallery: Gallery,
        source: Source,
        cache: CacheFile | None,
        interval_s: float,
        clock: Clock,
        *,
        max_age_s: float = 86_400.0,
        withdrawn_keep_s: float = 600.0,
    ) -> None:
        self._gallery = gallery
        self._source = source
        self._cache = cache
        self._interval_s = interval_s
        self._clock = clock
        self._max_age_s = max_age_s
        self._withdrawn_keep_s = withdrawn_keep_s
        self._nobody = Gallery(gallery.contract, gallery.dimension).snapshot
        # When the gallery was last right, by both clocks: the time of day may be set back, the other stands still in a sleep.
        self._right: tuple[float, float] | None = None
        self._withdrawn_since: float | None = None
        self._unusable: set[str] = set()
        self._state = SyncState(source.name)
        self._working = threading.Lock()
        self._ending = threading.Event()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        # What the file has not got yet, and how long it may wait; None: it has everything.
        self._save_within_s: float | None = None
        self._tried_to_save: float | None = None
        # What the file says of itself; None: there is none that can be used.
        self._file_right_at: float | None = None

    @property
    def state(self) -> SyncState:
        """As of now; replaced as a whole."""
        return self._state

    @property
    def snapshot(self) -> Snapshot:
        """Who may be recognised now; nobody where it is too long ago that this was known to be right."""
        return self._gallery.snapshot if self.is_fresh else self._nobody

    @property
    def is_fresh(self) -> bool:
        """Whether the gallery was right not too long ago."""
        right = self._right
        if right is None:
            return False
        return max(self._clock.now() - right[0], self._clock.monotonic() - right[1]) <= self._max_age_s

    def member(self, key: str) -> Member | None:
        """Who has this key now."""
        return self.snapshot.member(key)

    def load(self) -> bool:
        """Begin with what the file has. Whether it could be used."""
        if self._cache is None:
            return False
        with self._working:
            try:
                with _collector_resting():
                    delta, right_at = self._cache.load(self._clock.now())
                    self._gallery.apply(delta)
            except EdgeError as error:
                log.warning(f"Starting without the cache file: {error}")
                if self._cache.path.exists():
                    self._state = replace(self._state, cache_error=str(error))
                return False
            self._file_right_at = right_at
            self._right = right_at, self._clock.monotonic() - max(0.0, self._clock.now() - right_at)
            self._state = replace(self._state, version=delta.version or None, right_at=right_at, from_cache=True)
        log.info("Started from the cache file", members=len(self._gallery.snapshot), version=delta.version)
        return True

    def sync_once(self) -> Changes:
        """Ask the source once, and take over what it says; then save, where that is due.

        Returns:
            What has changed.

        Raises:
            SourceError, GalleryError: as their names say; `state` has it too, and the gallery is as it was.
        """
        with self._working:
            try:
                asked_at, asked_s = self._clock.now(), self._clock.monotonic()
                delta = self._source.fetch(self._state.version)
                changes = self._gallery.apply(delta)
            except EdgeError as error:
                self._state = replace(self._state, failures=self._state.failures + 1, error=str(error))
                if isinstance(error, SourceWithdrawn):
                    self._withdrawn()
                self._save_if_due()
                raise
            self._right, self._withdrawn_since = (asked_at, asked_s), None
            self._unusable = self._unusable_after(delta)
            # As of the question: what has happened since, the answer may not know.
            self._state = replace(
                self._state,
                version=delta.version or None,
                right_at=asked_at,
                from_cache=False,
                failures=0,
                error=None,
                unusable=len(self._unusable),
            )
            self._note(changes)
            self._save_if_due()
            return changes

    def start(self) -> None:
        """Begin with the file, then ask again and again, in a thread of its own."""
        if self._thread is not None:
            raise RuntimeError("It has been started already.")
        self.load()
        self._thread = threading.Thread(target=self._run, name="gallery-sync", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Ask now, not only when it is time."""
        self._wanted.set()

    def stop(self, within_s: float = 10.0) -> None:
        """End the thread, and save what is not saved yet."""
        self._ending.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(within_s)
            if self._thread.is_alive():  # it hangs in the source; the process ends without it
                return
        with self._working:
            if self._cache is not None and self._save_within_s is not None:
                self._save()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wanted.clear()
            try:
                self.sync_once()
            except EdgeError as error:
                log.warning(f"The gallery is not brought up to date: {error}", failures=self._state.failures)
            except Exception:
                # A fault of ours: the next attempt may meet other data, and the gallery is as it was.
                log.exception("The gallery is not brought up to date")
                self._state = replace(
                    self._state, failures=self._state.failures + 1, error="an error of the controller"
                )
            if not self._ending.is_set():
                self._wanted.wait(self._interval_s * random.uniform(1.0, 1.0 + _JITTER))  # noqa: S311 - no secret

    def _withdrawn(self) -> None:
        """The source says no. Once it has done so for a while, it means it: nobody is a member, and no file keeps them."""
        now_s = self._clock.monotonic()
        if self._withdrawn_since is None:
            self._withdrawn_since = now_s
        if now_s - self._withdrawn_since < self._withdrawn_keep_s:
            return
        if self._right is not None:
            log.error("The source gives this controller nothing any more: the gallery is emptied")
        self._gallery.update(())
        self._right, self._save_within_s, self._file_right_at = None, None, None
        self._unusable = set()
        told = f"{self._state.error} The gallery was emptied."
        self._state = replace(self._state, version=None, right_at=None, from_cache=False, error=told, unusable=0)
        if self._cache is None:
            return
        try:
            self._cache.delete()
        except OSError as error:
            reason = f"The cache file {self._cache.path} cannot be deleted: {error.strerror}."
            log.error(reason)
            self._state = replace(self._state, cache_error=reason)

    def _unusable_after(self, delta: GalleryDelta) -> set[str]:
        before = set() if delta.full else self._unusable
        return before.difference(delta.removed, (given.member.key for given in delta.upserts)).union(delta.unusable)

    def _note(self, changes: Changes) -> None:
        """How soon the file has to have what was changed."""
        if changes == Changes():
            return
        wanted_s = _SAVE_OTHERS_S if changes.removed or changes.updated else _SAVE_ADDED_S
        self._save_within_s = wanted_s if self._save_within_s is None else min(wanted_s, self._save_within_s)

    def _save_if_due(self) -> None:
        right_at, now = self._state.right_at, self._clock.monotonic()
        if self._cache is None or right_at is None:
            return
        passed_s = float("inf") if self._tried_to_save is None else now - self._tried_to_save
        if self._state.cache_error is not None and passed_s < _SAVE_ADDED_S:
            return  # the disk is full, or the like
        is_waiting = self._save_within_s is not None and passed_s >= self._save_within_s
        aged = self._file_right_at is None or right_at - self._file_right_at >= self._cache.max_age_s * _REFRESH_SHARE
        if is_waiting or aged:
            self._save()

    def _save(self) -> None:
        assert self._cache is not None
        version, right_at = self._state.version, self._state.right_at
        assert right_at is not None
        self._tried_to_save = self._clock.monotonic()
        try:
            self._cache.save(self._gallery.snapshot, version or "", right_at)
        except OSError as error:
            reason = f"The cache file {self._cache.path} cannot be written: {error.strerror}."
            log.error(reason)
            self._state = replace(self._state, cache_error=reason)
            return
        self._save_within_s, self._file_right_at = None, right_at
        self._state = replace(self._state, cache_error=None, saved_at=self._clock.now())


@contextmanager
def _collector_resting() -> Generator[None]:
    """Nobody looks for garbage in the block: with 50,000 members, none of which is any, that is half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
