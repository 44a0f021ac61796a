"""Starts the parts in order, replaces the ones that die, stops them in reverse order."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol

import structlog

log = structlog.stdlib.get_logger("facedex.supervisor")

_RESTART_FIRST_S: Final = 0.5
_RESTART_MAX_S: Final = 30.0
# A part that ran for this long is thought to have been healthy: its next failure starts with the short pause again.
_HEALTHY_AFTER_S: Final = 60.0
_POLL_S: Final = 0.2


class Running(Protocol):
    """A started part."""

    def exited(self) -> bool:
        """Whether its process is gone."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End it, gracefully as long as that takes no longer than `timeout_s`."""
        ...


class Stopped(Exception):
    """A signal asked for the end."""


@dataclass(slots=True)
class Part:
    """One of the installation's parts and what is known of its current process."""

    name: str
    start: Callable[[], Running]
    stop_timeout_s: float
    running: Running | None = None
    started_s: float = 0.0
    pause_s: float = _RESTART_FIRST_S
    restart_at_s: float | None = None
    was_up: bool = False


class Supervisor:
    """Owns the parts' processes. SIGINT and SIGTERM end it."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._stopping = False

    def handle_signals(self) -> None:
        """Take SIGINT and SIGTERM from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def start(self, name: str, start: Callable[[], Running], *, stop_timeout_s: float) -> None:
        """Start one more part.

        Raises:
            Stopped: a signal came.
        """
        self.check_stopped()
        part = Part(name, start, stop_timeout_s)
        self._parts.append(part)
        self._launch(part)

    def sleep(self, seconds: float) -> None:
        """Wait, unless a signal comes.

        Raises:
            Stopped: a signal came.
        """
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self.check_stopped()
            time.sleep(min(_POLL_S, left_s))
        self.check_stopped()

    def check_stopped(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self._stopping:
            raise Stopped

    def run(self) -> None:
        """Replace parts that die until a signal comes.

        Raises:
            Stopped: a signal came.
        """
        while True:
            self.replace_dead()
            self.sleep(_POLL_S)

    def replace_dead(self) -> list[str]:
        """Start anew the parts whose processes are gone, each after a pause that doubles.

        Returns:
            the names of those that died since the last call.
        """
        died = []
        for part in self._parts:
            if part.running is not None and part.running.exited():
                died.append(part.name)
                self._on_exit(part)
            if part.restart_at_s is not None and time.monotonic() >= part.restart_at_s:
                self._launch(part)
        return died

    def stop(self) -> None:
        """Stop all parts, the last started first."""
        for part in reversed(self._parts):
            if part.running is not None:
                part.running.stop(part.stop_timeout_s)
                part.running = None
        self._parts.clear()

    def _launch(self, part: Part) -> None:
        part.restart_at_s = None
        part.started_s = time.monotonic()
        try:
            part.running = part.start()
        except Exception:
            if not part.was_up:  # the first start: whoever starts the service wants to see why it fails
                raise
            log.exception(f"[SERVE] {part.name} could not be started again")
            self._plan_restart(part)
            return
        part.was_up = True

    def _on_exit(self, part: Part) -> None:
        assert part.running is not None
        part.running.stop(0)  # whatever it left behind
        part.running = None
        if time.monotonic() - part.started_s > _HEALTHY_AFTER_S:
            part.pause_s = _RESTART_FIRST_S
        log.error(f"[SERVE] {part.name} ended unexpectedly; starting it again in {part.pause_s:g} s")
        self._plan_restart(part)

    @staticmethod
    def _plan_restart(part: Part) -> None:
        part.restart_at_s = time.monotonic() + part.pause_s
        part.pause_s = min(part.pause_s * 2, _RESTART_MAX_S)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
