"""Locks on files that are waited for only so long: who holds one may be at it for minutes, or hang."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.errors import DatasetNotWritten

_LOOK_EVERY_S: Final = 0.05


@contextmanager
def locked_within(file: Path, wait_s: float) -> Generator[None]:
    """Hold the lock of a file, which is made where it does not exist, mode 600.

    Args:
        wait_s: how long to wait for who holds it.

    Raises:
        DatasetNotWritten: it was not free in time, or the folder refuses; nothing was done.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # Named as it lies in the storage folder, whose place is no client's business.
        name = "/".join(file.parent.parts[-3:])
        raise DatasetNotWritten(f"The folder {name} cannot be made or written to: {error.strerror}.") from error
    try:
        _take(handle, time.monotonic() + wait_s)
        yield
    finally:
        os.close(handle)


def _take(handle: int, until_s: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise DatasetNotWritten("The dataset is being worked on; try again shortly.") from None
            time.sleep(_LOOK_EVERY_S)
        else:
            return
