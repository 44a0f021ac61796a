"""Extracted faces in a Redis that may go at any moment."""

import contextlib
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from redis import Redis

from app.errors import CacheUnavailable
from app.face_cache.sealing import Sealing
from app.face_cache.shared import RedisStore, erase_domain_from_redis
from tests.face_cache.entries import Clock, entry
from tests.redis_server import redis_server
from tests.service.running import free_port


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    port = free_port()
    with redis_server(tmp_path_factory.mktemp("redis"), port):
        yield port


@pytest.fixture
def url(port) -> str:
    with Redis(port=port) as redis:
        redis.flushall()
    return f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def make(tmp_path):
    def make(url, *, entries=10, ttl_s=60.0, clock=None, key="face-cache.key") -> RedisStore:
        return RedisStore(url, lambda: Sealing(tmp_path / key), ttl_s, entries, clock=clock or Clock())

    return make


@contextlib.contextmanager
def connected(url):
    with Redis.from_url(url) as redis:
        yield redis


def lookups(outcome: str) -> float:
    return REGISTRY.get_sample_value("facedex_face_cache_lookups_total", {"outcome": outcome}) or 0.0


def test_all_processes_of_an_installation_find_what_one_has_kept_and_no_other_does(make, url):
    key = entry()
    make(url).put(key, b"faces")
    assert make(url).get(key) == b"faces"
    assert make(url, key="other.key").get(key) is None
    assert make(url).get(entry()) is None


def test_each_name_has_an_end_and_neither_names_nor_values_tell_what_is_kept(make, url):
    key = entry(77)
    make(url, ttl_s=60).put(key, b"a vector" * 8)
    with connected(url) as redis:
        for name in redis.scan_iter():
            assert 0 < redis.ttl(name) <= 60
            assert key.sha256.hex().encode() not in name
            assert redis.type(name) != b"string" or b"vector" not in redis.get(name)
        assert len(list(redis.scan_iter())) == 2  # the entry and the index


def test_an_entry_ends_by_itself(make, url):
    store, key = make(url, ttl_s=0.001), entry()
    store.put(key, b"faces")
    with connected(url) as redis:
        until = redis.time()
        while list(redis.scan_iter()) and redis.time()[0] < until[0] + 5:
            pass
        assert list(redis.scan_iter()) == []
    assert store.get(key) is None


def test_there_are_never_more_than_so_many_and_the_oldest_go(make, url):
    store = make(url, entries=3)
    keys = [entry(n) for n in range(5)]
    for key in keys:
        store.put(key, b"faces")
        with connected(url) as redis:
            before = redis.time()
            while redis.time() == before or (redis.time()[1] - before[1]) % 1_000_000 < 2_000:
                pass  # the order is by milliseconds
    assert [store.get(key) is not None for key in keys] == [False, False, True, True, True]
    store.observe()
    assert REGISTRY.get_sample_value("facedex_face_cache_redis_entries") == 3


def test_a_value_that_somebody_has_changed_or_moved_is_none(make, url):
    store, keys = make(url), [entry(n, uid=uuid4()) for n in range(2)]
    for n, key in enumerate(keys):
        store.put(key, f"faces {n}".encode())
    with connected(url) as redis:
        names = [name for name in redis.scan_iter() if redis.type(name) == b"string"]
        values = [redis.get(name) for name in names]
        redis.set(names[0], values[1])
        redis.set(names[1], b"\x00" * 3)
    assert [store.get(key) for key in keys] == [None, None]
    with connected(url) as redis:
        redis.delete(names[0])
        redis.rpush(names[0], "another type")
    assert [store.get(key) for key in keys] == [None, None]


def test_erasing_a_domain_leaves_nothing_of_it_whoever_sealed_it_and_keeps_the_others(make, url):
    gone, other = uuid4(), entry()
    stores = [make(url), make(url, key="other.key")]
    for store in stores:
        for n in range(3):
            store.put(entry(n, uid=gone), b"faces")
    stores[0].put(other, b"faces")
    assert erase_domain_from_redis(url, gone, 1) == 6
    assert erase_domain_from_redis(url, gone, 1) == 0
    assert stores[0].get(other) == b"faces"
    with connected(url) as redis:
        left = [name for name in redis.scan_iter() if str(gone).encode() in name]
        assert [redis.type(name) for name in left] == [b"string"]  # the floor
        assert redis.get(left[0]) == b"1"
        assert redis.ttl(left[0]) > 0
    stores[0].observe()
    assert REGISTRY.get_sample_value("facedex_face_cache_redis_entries") == 1


def test_who_was_extracting_when_somebody_was_erased_comes_too_late(make, url):
    store, uid = make(url), uuid4()
    before, after = entry(1, uid=uid, epoch=4), entry(1, uid=uid, epoch=5)
    erase_domain_from_redis(url, uid, 5)
    store.put(before, b"faces")
    assert store.get(before) is None
    store.put(after, b"faces")
    assert store.get(after) == b"faces"
    erase_domain_from_redis(url, uid, None)  # the domain itself
    store.put(after, b"faces")
    assert store.get(after) is None


def test_a_dead_redis_is_asked_by_one_every_few_seconds_and_what_is_found_comes_back_by_itself(make, tmp_path):
    clock, port, key = Clock(), free_port(), entry()
    url = f"redis://127.0.0.1:{port}/0"
    store = make(url, clock=clock)
    missed, unavailable = lookups("miss"), lookups("unavailable")
    assert store.get(key) is None
    store.put(key, b"faces")
    opened = []
    store._open, was = lambda: (opened.append(1), was())[1], store._open
    for _ in range(50):
        assert store.get(key) is None
    assert opened == []  # the failure was remembered
    clock.now_s += 5
    assert [store.get(key) for _ in range(5)] == [None] * 5
    assert opened == [1]
    assert (lookups("miss") - missed, lookups("unavailable") - unavailable) == (0, 56)
    with redis_server(tmp_path, port):
        assert store.get(key) is None
        assert opened == [1]
        clock.now_s += 5
        store.put(key, b"faces")
        assert store.get(key) == b"faces"


def test_a_redis_that_hangs_costs_one_request_a_moment_and_the_others_nothing(make, tmp_path):
    clock, port, key = Clock(), free_port(), entry()
    with redis_server(tmp_path, port) as process:
        store = make(f"redis://127.0.0.1:{port}/0", clock=clock)
        store.put(key, b"faces")
        process.suspend()
        asked = []
        store._open, was = lambda: (asked.append(1), was())[1], store._open
        assert [store.get(key) for _ in range(20)] == [None] * 20
        assert asked == [1]
        process.resume()
        clock.now_s += 5
        assert store.get(key) == b"faces"


def test_a_redis_that_is_full_or_no_redis_at_all_fails_nobody(make, url, tmp_path):
    with connected(url) as redis:
        redis.config_set("maxmemory", "1")
        try:
            store = make(url)
            store.put(entry(), b"faces")
            assert store.get(entry()) is None
        finally:
            redis.config_set("maxmemory", "0")
    for wrong in ("redis://127.0.0.1:notaport/0", "redis://127.0.0.1:1/0?socket_timeout=x", "unix:///nowhere"):
        store = make(wrong)
        store.put(entry(), b"faces")
        assert store.get(entry()) is None
        store.observe()
    (tmp_path / "broken.key").write_text("?")
    store = make(url, key="broken.key")
    store.put(entry(), b"faces")
    assert store.get(entry()) is None


def test_an_erasure_says_that_redis_did_not_do_it():
    with pytest.raises(CacheUnavailable, match="Redis does not delete"):
        erase_domain_from_redis(f"redis://127.0.0.1:{free_port()}/0", uuid4(), 1)
