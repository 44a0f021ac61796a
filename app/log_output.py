"""Where the lines of a process's log go, and how those of a request are kept together until it has been answered."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

# A request that takes longer than this says meanwhile how far it is.
_HELD_AT_MOST_S: Final = 1.0
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE: Final = 0o600

# Makes the text of a line, when it is written.
Line = Callable[[], str]


class LogOutput:
    """A file, which all processes of a part append to and `logrotate` may move away at any time, or standard error.

    Threads may share it, and so may processes that are forked later.

    Args:
        path: of the file, made where it does not exist; None is standard error.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held = _Held()
        self._fd = -1 if path is None else os.open(path, _FLAGS, _MODE)
        self._file = None if path is None else _identity(os.fstat(self._fd))

    def close(self) -> None:
        """Close the file. Lines that come after that are dropped."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def write(self, line: Line, *, at_once: bool) -> None:
        """Append a line, which has no line break at its end.

        Args:
            at_once: not held back, nor what was held back before it.
        """
        held = self._held
        if not held.holding:
            self._append(_made(line))
            return
        held.lines.append(line)
        if at_once or time.monotonic() - held.since_s > _HELD_AT_MOST_S:
            self._append(held.taken())
            held.since_s = time.monotonic()

    def hold(self) -> None:
        """Keep this thread's lines back from now on, until one comes a second later."""
        self.release()
        self._held.holding, self._held.since_s = True, time.monotonic()

    def release(self) -> None:
        """Write what was kept back, in one piece, and hold nothing back any more."""
        self._held.holding = False
        if self._held.lines:
            self._append(self._held.taken())

    def _append(self, text: str) -> None:
        """What cannot be written, on a full disk, say, stops nobody's work."""
        try:
            if self._path is None:
                sys.stderr.write(text)
                sys.stderr.flush()
            elif self._fd >= 0:
                self._reopen_if_moved(self._path)
                left = text.encode(errors="backslashreplace")
                while left:
                    left = left[os.write(self._fd, left) :]
        except (OSError, ValueError) as error:  # ValueError: a standard error that was closed
            with suppress(OSError, ValueError):
                sys.stderr.write(f"facedex: the log cannot be written: {error}\n")

    def _reopen_if_moved(self, path: Path) -> None:
        try:
            there = _identity(path.stat())
        except FileNotFoundError:
            there = None
        if there != self._file:
            new = os.open(path, _FLAGS, _MODE)
            # Under the same number: another thread may be about to write.
            os.dup2(new, self._fd, inheritable=False)
            self._file = _identity(os.fstat(new))
            os.close(new)


class _Held(threading.local):
    """What one thread keeps back."""

    def __init__(self) -> None:
        self.holding = False
        self.since_s = 0.0
        self.lines: list[Line] = []

    def taken(self) -> str:
        lines, self.lines = self.lines, []
        return "".join(map(_made, lines))


def _made(line: Line) -> str:
    """Its text; a value that has none is the business of whoever logs it, and no reason to lose other lines, or a request."""
    try:
        return line() + "\n"
    except Exception as error:
        return f"facedex: a line of the log could not be made: {type(error).__name__}\n"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
