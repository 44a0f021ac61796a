"""The installation's own key, in a file: it works without any database."""

import secrets
from pathlib import Path

import structlog

from app.keys.files import create_once

log = structlog.stdlib.get_logger("facedex.keys")


def create_admin_key(path: Path) -> bool:
    """Write a new random admin key to `path`, mode 600, unless there is one.

    Returns:
        whether a key was made.
    """
    if path.exists():
        return False
    return create_once(path, f"fdx_{secrets.token_urlsafe(32)}\n".encode())


class AdminKey:
    """The key in the file, so that replacing the file replaces the key without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loaded: tuple[int, bytes] | None = None

    def accepts(self, given: str) -> bool:
        """Whether it is this text."""
        key = self._current()
        return key is not None and secrets.compare_digest(key, given.encode("utf-8", "surrogateescape"))

    def _current(self) -> bytes | None:
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if self._loaded is None or self._loaded[0] != changed_ns:
                self._loaded = (changed_ns, self._path.read_bytes().strip())
        except OSError:
            log.error("[API] The admin key file cannot be read: nobody is let in with it")
            return None
        return self._loaded[1] or None
