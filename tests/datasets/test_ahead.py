"""Items made in a thread: all, in order, not too far ahead, and nothing left behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from app.datasets.ahead import ahead


def test_all_items_in_order() -> None:
    with ahead(iter(range(100)), 3) as items:
        assert list(items) == list(range(100))


def test_no_farther_ahead_than_told() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for n in range(50):
            made.append(n)
            yield n

    with ahead(make(), 2) as items:
        for taken, item in enumerate(items):
            time.sleep(0.001)
            assert len(made) <= taken + 1 + 2 + 1 + 1, item


def test_an_error_comes_where_its_item_would() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with ahead(make(), 5) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken"):
            next(items)


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_leaving_early_closes_the_iterator_and_ends_the_thread(taken: int) -> None:
    closed = threading.Event()

    def make() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.set()

    with ahead(make(), 1) as items:
        for _ in range(taken):
            next(items)
        time.sleep(0.01)
    assert closed.is_set()
    assert [thread for thread in threading.enumerate() if thread.name == "ahead"] == []


def test_an_error_of_whoever_uses_the_items_ends_the_thread_too() -> None:
    def use() -> None:
        with ahead(iter(range(1_000_000)), 1) as items:
            raise KeyError(next(items))

    with pytest.raises(KeyError):
        use()
    assert [thread for thread in threading.enumerate() if thread.name == "ahead"] == []
