import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.api.recent import Recent


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Examination:
    """Counts; each takes until it is let go on, where it is told to wait."""

    def __init__(self) -> None:
        self.begun = 0
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def quick(self) -> int:
        self.begun += 1
        return self.begun

    def slow(self) -> int:
        found = self.quick()
        self.entered.release()
        assert self.go_on.acquire(timeout=60)
        return found


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recent(clock):
    return Recent(clock)


def test_what_was_found_within_a_second_is_not_looked_for_again(recent, clock):
    examination = Examination()
    assert recent.get(examination.quick) == 1
    clock.now_s += 0.9
    assert recent.get(examination.quick) == 1
    clock.now_s += 0.2
    assert recent.get(examination.quick) == 2


def test_what_took_long_to_find_out_is_not_old_at_once(recent, clock):
    examination = Examination()

    def two_seconds() -> int:
        clock.now_s += 2
        return examination.quick()

    assert [recent.get(two_seconds) for _ in range(3)] == [1, 1, 1]


def test_while_one_looks_others_get_what_was_known(recent, clock):
    examination = Examination()
    assert recent.get(examination.quick) == 1
    clock.now_s += 2
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(recent.get, examination.slow)
        assert examination.entered.acquire(timeout=60)
        assert [recent.get(examination.quick) for _ in range(5)] == [1] * 5
        examination.go_on.release()
        assert slow.result(60) == 2
    assert recent.get(examination.quick) == 2


@pytest.mark.parametrize("idle_s", [None, 31])
def test_who_knows_nothing_or_what_is_long_past_waits_for_the_one_that_looks(recent, clock, idle_s):
    examination = Examination()
    if idle_s is not None:
        recent.get(examination.quick)
        clock.now_s += idle_s
    before = examination.begun
    with ThreadPoolExecutor(4) as threads:
        askers = [threads.submit(recent.get, examination.slow) for _ in range(4)]
        assert examination.entered.acquire(timeout=60)
        examination.go_on.release()
        assert [asker.result(60) for asker in askers] == [before + 1] * 4
    assert examination.begun == before + 1


def test_an_examination_that_fails_is_made_again(recent):
    def fail() -> int:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        recent.get(fail)
    assert recent.get(Examination().quick) == 1
