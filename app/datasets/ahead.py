"""Lets what makes items and what uses them work at the same time."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from typing import TypeVar

from app.tenancy import carried

T = TypeVar("T")


@contextmanager
def ahead(items: Iterator[T], depth: int) -> Generator[Iterator[T]]:
    """The items in order, made by a thread that is up to `depth` items ahead; an error comes where its item would.

    None is no item. The thread has ended, and the iterator is closed, when the block ends.
    """
    queue: Queue[T | _Failure | None] = Queue(depth)
    stopped = threading.Event()

    def make() -> None:
        try:
            for item in items:
                queue.put(item)
                if stopped.is_set():
                    return
            queue.put(None)
        except BaseException as error:  # it belongs to whoever uses the items
            queue.put(_Failure(error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=carried(make), name="ahead", daemon=True)
    thread.start()
    try:
        yield _taken(queue)
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(Empty):
                queue.get_nowait()  # room for the one that the thread may be waiting with
            thread.join(0.05)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _taken(queue: "Queue[T | _Failure | None]") -> Iterator[T]:
    while (item := queue.get()) is not None:
        if isinstance(item, _Failure):
            raise item.error
        yield item
