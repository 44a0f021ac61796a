"""Child processes that end with their parent, whatever happens to it."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Child:
    """A running process of the installation.

    It has a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone, which then stops everything in
    order. The kernel sends it SIGTERM when the supervisor dies without having done so.
    """

    name: str
    process: subprocess.Popen[bytes]
    started_s: float = field(default_factory=time.monotonic)

    @classmethod
    def spawn(cls, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log_file: Path) -> Self:
        """Start `argv`; what it prints is appended to `log_file`."""
        supervisor = os.getpid()

        def die_with_supervisor() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != supervisor:  # it died in between
                os._exit(1)

        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_supervisor,  # noqa: PLW1509 -- the supervisor has no threads
            )
        return cls(name, process)

    def exited(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def hang_up(self) -> set[int]:
        """Tell a Gunicorn to read its settings again and replace its workers, each once it has answered what it holds.

        Returns:
            the workers that are to go.
        """
        workers = self.workers()
        self.process.send_signal(signal.SIGHUP)
        return workers

    def workers(self) -> set[int]:
        """The process's own children, by id."""
        try:
            found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:  # it has ended, or the kernel does not tell
            return set()
        return {int(pid) for pid in found.split()}

    def stop(self, timeout_s: float) -> None:
        """Ask the process to end, wait, then end it and all that it started."""
        if not self.exited():
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._end_group()

    def kill(self) -> None:
        """End the process and its group at once."""
        self._end_group()
        self.process.wait()

    def _end_group(self) -> None:
        """End what is left of the session: Gunicorn's workers outlive an arbiter that was killed by up to a second."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
