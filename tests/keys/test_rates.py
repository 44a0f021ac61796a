import threading

import pytest

from app.keys.rates import RateLimits
from tests.redis_server import redis_server
from tests.service.running import free_port


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_opened_or_started_before_the_first_count():
    before = set(threading.enumerate())
    RateLimits("redis://127.0.0.1:1/0")
    RateLimits(None)
    assert set(threading.enumerate()) <= before


def test_so_many_a_minute_and_one_more_is_too_many():
    limits = RateLimits(None)
    told = [limits.count("key", "a", 3) for _ in range(5)]
    assert [rate.exceeded for rate in told] == [False, False, False, True, True]
    assert [rate.remaining for rate in told] == [2, 1, 0, 0, 0]
    assert all(0 < rate.reset_s <= 60 for rate in told)


def test_each_counts_by_itself():
    limits = RateLimits(None)
    assert not limits.count("key", "a", 1).exceeded
    assert limits.count("key", "a", 1).exceeded
    assert not limits.count("key", "b", 1).exceeded
    assert not limits.count("address", "a", 1).exceeded


def test_looking_counts_nothing():
    limits = RateLimits(None)
    for _ in range(3):
        assert limits.look("key", "a", 1).remaining == 1
    limits.count("key", "a", 1)
    assert limits.look("key", "a", 1).exceeded


def test_a_redis_that_is_not_there_costs_nobody_an_answer_and_is_asked_again_later():
    clock = Clock()
    limits = RateLimits(f"redis://127.0.0.1:{free_port()}/0", clock)
    assert not limits.count("key", "a", 1).exceeded
    assert limits.count("key", "a", 1).exceeded  # counted in the process


@pytest.fixture
def redis(tmp_path):
    port = free_port()
    with redis_server(tmp_path, port) as process:
        yield f"redis://127.0.0.1:{port}/0", process


def test_with_redis_processes_count_together(redis):
    url, _ = redis
    url += "?socket_timeout=5"  # on a busy machine: Redis is there
    one, other = RateLimits(url), RateLimits(url)
    assert not one.count("key", "a", 2).exceeded
    assert not other.count("key", "a", 2).exceeded
    assert one.count("key", "a", 2).exceeded
    assert other.look("key", "a", 2).remaining == 0


def test_a_redis_that_hangs_or_dies_costs_nobody_an_answer_and_counts_again_when_it_is_back(redis):
    url, process = redis
    clock = Clock()
    limits = RateLimits(url, clock)
    limits.count("key", "a", 100)
    process.suspend()
    assert limits.count("key", "a", 100).remaining == 99  # this process's own first
    assert limits.count("key", "a", 100).remaining == 98
    process.resume()
    clock.now_s += 11
    assert limits.count("key", "a", 100).remaining in (97, 98)  # Redis may have got the one that was given up
