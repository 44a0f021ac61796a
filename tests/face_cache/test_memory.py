"""Extracted faces in a process's memory."""

import threading
from dataclasses import replace
from uuid import uuid4

from app.errors import DatabaseUnavailable
from app.face_cache.memory import MemoryStore
from tests.face_cache.entries import Clock, entry
from tests.service.running import eventually


def store(
    *, epochs=lambda uids: dict.fromkeys(uids, 0), ttl_s=10.0, entries=3, clock=None, every_s=60.0
) -> MemoryStore:
    return MemoryStore(ttl_s, entries, epochs, clock=clock or Clock(), check_every_s=every_s)


def test_what_was_kept_is_found_for_its_time_however_often_it_is_used():
    clock = Clock()
    kept, key = store(clock=clock), entry()
    assert kept.get(key) is None
    kept.put(key, b"faces")
    for second in range(10):
        clock.now_s = second
        assert kept.get(key) == b"faces"
    clock.now_s = 10
    assert kept.get(key) is None


def test_nobody_else_finds_it():
    kept, key = store(), entry()
    kept.put(key, b"faces")
    assert kept.get(replace(key, domain=replace(key.domain, uid=uuid4()))) is None
    assert kept.get(replace(key, domain=replace(key.domain, epoch=1))) is None
    assert kept.get(replace(key, domain=replace(key.domain, model="buffalo_l"))) is None
    assert kept.get(replace(key, effort="thorough")) is None
    assert kept.get(replace(key, sha256=b"x" * 32)) is None
    assert kept.get(key) == b"faces"


def test_a_full_store_drops_what_was_used_longest_ago():
    kept, keys = store(entries=3), [entry(n) for n in range(4)]
    for key in keys[:3]:
        kept.put(key, b"faces")
    kept.get(keys[0])
    kept.put(keys[3], b"faces")
    assert [kept.get(key) is not None for key in keys] == [True, False, True, True]


def test_a_check_forgets_what_is_too_old_or_out_of_date_or_of_a_domain_that_is_gone():
    clock, current, changed, gone = Clock(), entry(1), entry(2), entry(3)
    present = {current.domain.uid: 0, changed.domain.uid: 1}
    kept = store(clock=clock, epochs=lambda uids: {uid: present[uid] for uid in uids if uid in present})
    for key in (current, changed, gone):
        kept.put(key, b"faces")
    assert kept.check() == 1
    assert [kept.get(key) for key in (current, changed, gone)] == [b"faces", None, None]
    clock.now_s = 10
    assert kept.check() == 0


def test_what_nobody_can_be_asked_about_is_forgotten():
    def away(uids):
        raise DatabaseUnavailable("gone")

    kept, key = store(epochs=away), entry()
    kept.put(key, b"faces")
    assert kept.check() == 0
    assert kept.get(key) is None


def test_a_process_that_is_asked_nothing_more_forgets_too_and_its_thread_ends():
    present = {}
    others = set(threading.enumerate())
    kept, key = store(epochs=lambda uids: present, every_s=0.02), entry()
    assert set(threading.enumerate()) <= others  # before the first entry
    for _ in range(2):
        present[key.domain.uid] = 0
        kept.put(key, b"faces")
        assert kept.get(key) == b"faces"
        present[key.domain.uid] = 1
        eventually(lambda: kept.get(key) is None)
        eventually(lambda: set(threading.enumerate()) <= others)  # and begins again
