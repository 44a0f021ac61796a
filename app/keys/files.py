"""Files with secrets in them: mode 600, complete or not there at all, the owner's of the storage folder."""

import fcntl
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_POLL_S: Final = 0.02


def create_once(path: Path, content: bytes) -> bool:
    """Write a new file, unless there is one: an existing one is never replaced, and a crash leaves no empty one.

    Returns:
        whether it was written.
    """
    with _written_beside(path, content) as written:
        try:
            os.link(written.name, path)
        except FileExistsError:
            return False
    return True


def replace_with(path: Path, content: bytes) -> None:
    """Write a file, in the place of the one that may be there, in one step."""
    with _written_beside(path, content) as written:
        linked = Path(f"{written.name}.new")
        os.link(written.name, linked)
        linked.replace(path)


@contextmanager
def locked(path: Path, wait_s: float) -> Generator[bool]:
    """Hold the lock of that name, between processes and threads alike; false where it did not become free in time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until_s = time.monotonic() + wait_s
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as stream:
        _give_to_owner(stream, path.parent)
        yield _acquired(stream, until_s)


def _acquired(stream: IO[bytes], until_s: float) -> bool:
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(_POLL_S)
        else:
            return True


@contextmanager
def _written_beside(path: Path, content: bytes) -> Generator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}-") as stream:  # mode 600
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        _give_to_owner(stream, path.parent)
        yield stream


def _give_to_owner(stream: IO[bytes], folder: Path) -> None:
    """A command that root runs leaves nothing behind that the service cannot read."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
