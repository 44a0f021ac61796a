"""Whatever the source and the disk do, the gallery holds the last that was known to be right, and says since when."""

import threading
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from app.edge.clock import VirtualClock
from app.edge.errors import (
    EdgeError,
    MalformedMembers,
    SourceRefused,
    SourceUnavailable,
    SourceWithdrawn,
    WrongContract,
)
from app.edge.gallery import Changes, Gallery
from app.edge.members import GalleryDelta
from app.edge.sources.file import CacheFile
from app.edge.sync import GallerySync
from tests.edge.making import CONTRACT, DIMENSION, delta, templates, vector

MAX_AGE_S = 4000.0


@dataclass
class Scripted:
    """A source that answers what it was told to, and then that nothing has changed."""

    answers: deque[GalleryDelta | Exception] = field(default_factory=deque)
    asked: list[str | None] = field(default_factory=list)
    answered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    name: str = "scripted"

    def fetch(self, since: str | None) -> GalleryDelta:
        self.asked.append(since)
        self.answered.release()
        if not self.answers:
            return GalleryDelta(CONTRACT, since or "0", full=since is None)
        following = self.answers.popleft()
        if isinstance(following, Exception):
            raise following
        return following


@dataclass
class Edge:
    """A controller's part that keeps the gallery, and what it stands on."""

    folder: Path
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(1_800_000_000.0))
    source: Scripted = field(default_factory=Scripted)

    def __post_init__(self) -> None:
        self.cache = CacheFile(
            self.folder / "cache", source="scripted", contract=CONTRACT, dimension=DIMENSION, max_age_s=MAX_AGE_S
        )
        self.restart()

    def restart(self) -> "Edge":
        self.gallery = Gallery(CONTRACT, DIMENSION)
        self.sync = GallerySync(self.gallery, self.source, self.cache, 3600.0, self.clock)
        return self

    def told(self, *answers: GalleryDelta | Exception) -> None:
        self.source.answers.extend(answers)

    def step(self) -> Changes | None:
        try:
            return self.sync.sync_once()
        except EdgeError:
            return None

    @property
    def members(self) -> int:
        return len(self.gallery.snapshot)

    def in_file(self) -> set[str]:
        return {given.member.key for given in self.cache.load(self.clock.now())[0].upserts}


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


def full(version: str, *keys: str) -> GalleryDelta:
    return replace(delta([templates(key, n) for n, key in enumerate(keys)], full=True), version=version)


def some(version: str, *keys: str, removed: tuple[str, ...] = ()) -> GalleryDelta:
    return replace(delta([templates(key, 50 + n) for n, key in enumerate(keys)], removed), version=version)


def test_it_asks_for_everything_first_and_for_changes_then(edge: Edge) -> None:
    edge.told(full("1", "a", "b"), some("2", "c", removed=("a",)))
    assert edge.sync.load() is False
    assert edge.step() == Changes(added=2)
    assert edge.step() == Changes(added=1, removed=1)
    edge.step()
    assert edge.source.asked == [None, "1", "2"]
    assert edge.gallery.snapshot.member("a") is None


def test_a_restart_begins_with_the_file_and_asks_for_changes_alone(edge: Edge) -> None:
    edge.told(full("1", "a", "b"))
    edge.step()
    right_at = edge.clock.now()
    edge.clock.sleep(100)
    edge.restart()
    edge.told(SourceUnavailable("away"), some("2", "c"))
    assert edge.sync.load()
    state = edge.sync.state
    assert (edge.members, state.version, state.from_cache, state.right_at) == (2, "1", True, right_at)
    assert state.staleness_s(edge.clock.now()) == 100
    assert edge.step() is None
    assert edge.members == 2
    edge.step()
    assert edge.source.asked == [None, "1", "1"]
    assert (edge.members, edge.sync.state.from_cache, edge.sync.state.right_at) == (3, False, edge.clock.now())


@pytest.mark.parametrize(
    "failure",
    [
        SourceUnavailable("away"),
        SourceRefused("no"),
        MalformedMembers("what?"),
        replace(some("2", "c"), contract="another"),
        replace(some("2"), upserts=(templates("c", 1), templates("c", 2))),
    ],
)
def test_whatever_fails_the_gallery_stays_and_it_shows(edge: Edge, failure: GalleryDelta | Exception) -> None:
    edge.told(full("1", "a", "b"), failure, failure, some("3", "c"))
    edge.step()
    right_at = edge.clock.now()
    edge.clock.sleep(30)
    assert (edge.step(), edge.step()) == (None, None)
    state = edge.sync.state
    assert (edge.members, state.version, state.failures, state.right_at) == (2, "1", 2, right_at)
    assert state.error
    assert state.staleness_s(edge.clock.now()) == 30
    edge.step()
    assert edge.source.asked == [None, "1", "1", "1"]
    assert (edge.members, edge.sync.state.failures, edge.sync.state.error) == (3, 0, None)


def test_a_file_of_another_model_is_not_begun_with(edge: Edge, tmp_path: Path) -> None:
    other = CacheFile(edge.cache.path, source="scripted", contract="another:16:0", dimension=DIMENSION, max_age_s=9.0)
    gallery = Gallery("another:16:0", DIMENSION)
    gallery.update([templates("a", 1)])
    other.save(gallery.snapshot, "9", edge.clock.now())
    assert edge.sync.load() is False
    assert edge.sync.state.cache_error
    edge.told(full("1", "b"))
    edge.step()
    assert edge.source.asked == [None]
    assert edge.in_file() == {"b"}
    assert edge.sync.state.cache_error is None
    with pytest.raises(WrongContract):
        gallery.apply(full("1", "b"))


def test_who_is_gone_leaves_the_file_soon_and_who_is_new_waits_for_others(edge: Edge) -> None:
    edge.told(full("1", "a"), some("2", "b"), some("3", "c"), some("4", removed=("a",)), some("5"), some("6", "d"))
    edge.step()
    assert edge.in_file() == {"a"}
    edge.clock.sleep(10)
    edge.step()
    edge.clock.sleep(10)
    edge.step()
    assert edge.in_file() == {"a"}
    edge.clock.sleep(10)
    edge.step()
    assert edge.in_file() == {"b", "c"}
    edge.clock.sleep(1)
    edge.step()
    edge.step()
    assert edge.in_file() == {"b", "c"}
    edge.told(SourceUnavailable("away"))
    edge.clock.sleep(60)
    edge.step()  # what is waiting is written also while the source is away
    assert edge.in_file() == {"b", "c", "d"}


def test_what_is_not_written_yet_is_when_it_stops(edge: Edge) -> None:
    edge.told(full("1", "a"), some("2", "b"))
    edge.step()
    edge.step()
    assert edge.in_file() == {"a"}
    edge.sync.stop()
    assert edge.in_file() == {"a", "b"}


def test_a_file_that_nothing_changes_in_does_not_grow_old(edge: Edge) -> None:
    edge.told(full("1", "a"))
    for _ in range(10):
        edge.step()
        edge.clock.sleep(MAX_AGE_S / 5)
    edge.restart()
    assert edge.sync.load()


def test_a_disk_that_is_full_stops_nothing_and_shows(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(*_arguments: object) -> None:
        tried.append(1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("app.edge.sources.file.encode", fail)
        edge.told(full("1", "a"), some("2", "b"))
        edge.step()
        edge.step()
        assert edge.members == 2
        assert "No space" in (edge.sync.state.cache_error or "")
        assert len(tried) == 1  # not at every attempt
    edge.clock.sleep(60)
    edge.step()
    assert edge.sync.state.cache_error is None
    assert edge.in_file() == {"a", "b"}


def test_a_source_without_versions_tells_everything_each_time(edge: Edge) -> None:
    edge.told(full("", "a", "b"), full("", "b"))
    edge.step()
    assert edge.step() == Changes(removed=1, updated=1)
    assert edge.source.asked == [None, None]
    edge.restart()
    assert edge.sync.load()
    assert edge.sync.state.version is None


def test_the_thread_goes_on_after_failures_and_ends_when_told(edge: Edge) -> None:
    edge.told(SourceUnavailable("away"), RuntimeError("a fault"), full("1", "a"))
    before = set(threading.enumerate())
    edge.sync.start()
    for _ in range(4):
        assert edge.source.answered.acquire(timeout=60)
        edge.sync.wake()
    edge.sync.stop()
    assert set(threading.enumerate()) <= before
    assert edge.members == 1
    assert edge.in_file() == {"a"}
    assert edge.sync.state.failures == 0


def test_without_a_file_it_begins_with_nothing(tmp_path: Path) -> None:
    source = Scripted()
    source.answers.append(full("1", "a"))
    gallery = Gallery(CONTRACT, DIMENSION)
    sync = GallerySync(gallery, source, None, 3600.0, VirtualClock())
    assert sync.load() is False
    sync.sync_once()
    sync.stop()
    assert len(gallery.snapshot) == 1


def test_what_is_too_old_is_given_to_nobody_whatever_is_done_to_the_time_of_day(edge: Edge) -> None:
    edge.told(full("1", "a"))
    assert edge.sync.member("a") is None
    edge.step()
    assert edge.sync.member("a")
    edge.clock.jump(86_401)
    assert edge.sync.member("a") is None
    edge.clock.jump(-2 * 86_401)
    assert edge.sync.member("a")
    edge.clock.sleep(86_401)
    assert edge.sync.member("a") is None
    assert len(edge.sync.snapshot) == 0
    assert edge.sync.snapshot.match(vector(0), now=edge.clock.now()) == []
    edge.step()
    assert edge.sync.snapshot.match(vector(0), now=edge.clock.now())


def test_a_file_grows_old_also_while_it_is_used(edge: Edge) -> None:
    edge.told(full("1", "a"))
    edge.step()
    edge.clock.sleep(MAX_AGE_S - 1)
    edge.restart()
    assert edge.sync.load()
    assert edge.sync.member("a")
    edge.clock.sleep(86_400 - MAX_AGE_S + 2)
    assert edge.sync.member("a") is None


def test_a_source_that_goes_on_saying_no_empties_the_gallery_and_the_file(edge: Edge) -> None:
    no = SourceWithdrawn("void key.")
    edge.told(full("1", "a"), no, SourceUnavailable("away"), full("2", "a"), no, no, no)
    edge.step()
    edge.step()
    edge.clock.sleep(700)
    edge.step()  # it says nothing: that is no "no"
    edge.step()
    edge.step()
    edge.clock.sleep(599)
    edge.step()
    assert edge.sync.member("a")
    assert edge.cache.path.exists()
    edge.clock.sleep(1)
    edge.step()
    assert (edge.members, edge.sync.member("a"), edge.sync.state.right_at) == (0, None, None)
    assert "emptied" in (edge.sync.state.error or "")
    assert not edge.cache.path.exists()
    edge.sync.stop()
    assert not edge.cache.path.exists()
    edge.told(full("3", "b"))
    edge.step()
    assert edge.source.asked[-1] is None
    assert edge.sync.member("b")
    assert edge.in_file() == {"b"}


def test_who_cannot_be_used_is_counted_until_they_can_or_are_gone(edge: Edge) -> None:
    edge.told(full("1", "a"), replace(some("2", removed=("a",)), unusable=("a", "x")), some("3", "a"), full("4"))
    counted = []
    for _ in range(4):
        edge.step()
        counted.append(edge.sync.state.unusable)
    assert counted == [0, 2, 1, 0]
