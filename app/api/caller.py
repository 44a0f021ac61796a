"""Whether the client still waits for its answer."""

import select
from collections.abc import Callable
from typing import Any

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def hang_up_test(environ: dict[str, Any]) -> Callable[[], bool]:
    """A test whether the client has closed its connection, to be asked while a request is in work.

    A client that has only closed its sending side cannot be told from one that is gone, and so is taken for gone, as it is by
    nginx. Below another server than Gunicorn, nobody is ever gone.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return lambda: False
    poll = select.poll()
    poll.register(connection, _GONE)
    return lambda: bool(poll.poll(0))
