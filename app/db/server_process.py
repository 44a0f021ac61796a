"""The running server: its process, and what is left of one that was killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import structlog

log = structlog.stdlib.get_logger("facedex.db")

_POLL_S: Final = 0.05
_EACH_SIGNAL_S: Final = 5.0


class ServerProcess:
    """A started server. It has a session of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(self, process: subprocess.Popen[bytes], data: Path, lock: IO[bytes]) -> None:
        self.process = process
        self._data = data
        # Held as long as the server may run: whoever else wants to start one is refused.
        self._lock = lock

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return self.process.pid

    def exited(self) -> bool:
        """Whether the postmaster is gone."""
        return self.process.poll() is not None

    def stop(self, timeout_s: float = 30.0) -> None:
        """Shut down: sessions are ended, everything is written out. Past the time it is killed, which loses nothing either:
        the next start recovers from the log."""
        if self._lock.closed:  # stopped before: what runs on the data now is another's
            return
        # https://www.postgresql.org/docs/18/server-shutdown.html: fast, immediate, and the kernel's way.
        for number, patience_s in (
            (signal.SIGINT, timeout_s),
            (signal.SIGQUIT, _EACH_SIGNAL_S),
            (signal.SIGKILL, None),
        ):
            if self.exited():
                break
            self.process.send_signal(number)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                log.warning("[DATABASE] still running", signal=signal.Signals(number).name, waited_s=patience_s)
        end_orphans(self._data, patience_s=_EACH_SIGNAL_S)
        self._lock.close()


def end_orphans(data: Path, *, patience_s: float) -> None:
    """Wait for the processes of a server whose owner is gone, then end them.

    A postmaster shuts down when its owner dies; backends notice the death of their postmaster, but not in the middle of a
    statement. A new server may not start before they are gone. Call it only while holding the lock.
    """
    for number in (None, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        for pid in server_pids(data):
            if number is not None:
                log.warning("[DATABASE] ending a process that was left behind", pid=pid, signal=number.name)
                _send(pid, number)
        if _wait_until(lambda: not server_pids(data), patience_s if number is None else _EACH_SIGNAL_S):
            return


def server_pids(data: Path) -> list[int]:
    """Processes of the server with this data folder: PostgreSQL's whose working directory it is.

    Compared by inode, since a process in another mount namespace sees it under another path.
    """
    if not data.exists():
        return []
    here = data.stat()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and _is_postgres(entry.path):
            try:
                there = os.stat(f"{entry.path}/cwd")  # noqa: PTH116 - a magic link: its text is another namespace's
            except OSError:  # it ended, or is somebody else's
                continue
            if os.path.samestat(here, there):
                found.append(int(entry.name))
    return found


def forget_ended(data: Path, socket: Path) -> None:
    """Remove the traces of an ended server, of which PostgreSQL would think that it runs if its process id is in use again.

    Call it only while holding the lock, after `end_orphans`.
    """
    for trace in socket.glob(".s.PGSQL.*"):
        trace.unlink()
    if not server_pids(data) and _all_visible():
        (data / "postmaster.pid").unlink(missing_ok=True)


def _all_visible() -> bool:
    """Whether `server_pids` sees every process: root in a container may lack the right, and then PostgreSQL's own check,
    which the file is for, has to do."""
    if os.getuid() != 0:
        return True
    try:
        others = [entry.path for entry in os.scandir("/proc") if entry.name.isdecimal() and _is_postgres(entry.path)]
        for process in others:
            os.stat(f"{process}/cwd")  # noqa: PTH116 - as above
    except PermissionError:
        return False
    except FileNotFoundError:  # one ended meanwhile
        return False
    return True


def _is_postgres(process: str) -> bool:
    try:
        return Path(process, "comm").read_text() == "postgres\n"
    except OSError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= until_s:
            return False
        time.sleep(_POLL_S)
    return True
