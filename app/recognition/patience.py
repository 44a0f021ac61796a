"""Waiting no longer than one can: for a server that has stopped answering, no time limit of its own will ever pass."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from app.errors import DatabaseUnavailable

T = TypeVar("T")


def within(limit_s: float, work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own, and give up waiting for it after `limit_s`.

    What was given up goes on until its connection fails, and its result is dropped: it must change nothing. The connections of
    the pool bound how many such threads there can be.

    Raises:
        DatabaseUnavailable: it took longer.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:
            future.set_exception(error)

    # A daemon: a process that is told to end does not wait for it either.
    threading.Thread(target=run, name="database", daemon=True).start()
    try:
        return future.result(limit_s)
    except TimeoutError:
        if future.done():  # `work` itself raised it
            raise
        raise DatabaseUnavailable("The database did not answer in time.") from None
