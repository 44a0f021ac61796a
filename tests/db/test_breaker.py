"""The circuit breaker, with a clock of the test's own."""

import threading

import pytest

from app.db.breaker import BreakerState, CircuitBreaker
from app.errors import DatabaseBusy, DatabaseTimeout, DatabaseUnavailable, DomainNotFound


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(failures=3, retry_after_s=5.0, clock=clock)


def call(breaker: CircuitBreaker, error: Exception | None = None) -> bool:
    """Whether the database was asked."""
    asked = False
    try:
        with breaker.guard():
            asked = True
            if error is not None:
                raise error
    except type(error or DatabaseUnavailable()):
        pass
    return asked


def away() -> DatabaseUnavailable:
    return DatabaseUnavailable("gone")


def open_(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        assert call(breaker, away())
    assert breaker.state is BreakerState.OPEN


def test_it_opens_after_some_connection_errors_in_a_row_and_then_nobody_is_asked(breaker):
    open_(breaker)
    with pytest.raises(DatabaseUnavailable), breaker.guard():
        raise AssertionError("was let through")


def test_errors_that_are_not_in_a_row_do_not_open_it(breaker):
    for _ in range(10):
        call(breaker, away())
        call(breaker, away())
        call(breaker)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", [DatabaseTimeout("slow"), DomainNotFound("none"), ValueError("bug")])
def test_only_connection_errors_open_it_and_any_other_shows_that_the_database_is_there(breaker, error):
    for _ in range(10):
        assert call(breaker, error)
    call(breaker, away())
    call(breaker, away())
    call(breaker, error)
    call(breaker, away())
    assert breaker.state is BreakerState.CLOSED


def test_connections_that_are_all_in_use_say_nothing_about_the_server(breaker):
    for _ in range(10):
        assert call(breaker, DatabaseBusy("all in use"))
    assert breaker.state is BreakerState.CLOSED
    open_(breaker)


def test_one_call_tries_after_a_while_and_closes_it(breaker, clock):
    open_(breaker)
    clock.now_s += 4.9
    assert not call(breaker)
    clock.now_s += 0.2
    assert call(breaker)
    assert breaker.state is BreakerState.CLOSED
    assert call(breaker)


def test_a_try_that_fails_opens_it_for_as_long_again(breaker, clock):
    open_(breaker)
    clock.now_s += 5
    assert call(breaker, away())
    assert breaker.state is BreakerState.OPEN
    clock.now_s += 4.9
    assert not call(breaker)
    clock.now_s += 0.2
    assert call(breaker)


def test_while_one_tries_the_others_are_not_held_up(breaker, clock):
    open_(breaker)
    clock.now_s += 5
    inside, may_end = threading.Event(), threading.Event()

    def trial() -> None:
        with breaker.guard():
            inside.set()
            assert may_end.wait(60)

    thread = threading.Thread(target=trial)
    thread.start()
    assert inside.wait(60)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not call(breaker)
    may_end.set()
    thread.join()
    assert breaker.state is BreakerState.CLOSED


def test_a_try_that_never_comes_back_does_not_keep_it_open_for_ever(breaker, clock):
    open_(breaker)
    clock.now_s += 5
    with pytest.raises(KeyboardInterrupt), breaker.guard():
        raise KeyboardInterrupt
    assert not call(breaker)
    clock.now_s += 5
    assert call(breaker)
    assert breaker.state is BreakerState.CLOSED


def test_calls_of_many_threads_go_through_side_by_side(breaker):
    everyone = threading.Barrier(8, timeout=30)

    def one() -> None:
        with breaker.guard():
            everyone.wait()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not everyone.broken
