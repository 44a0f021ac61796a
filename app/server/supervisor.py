"""Starts the parts in order, replaces the ones that die, stops them in reverse order."""

import os
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
    """Owns the parts' processes. SIGINT and SIGTERM end it, SIGHUP asks for a reload."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._helpers: list[Running] = []
        self._chores: list[Callable[[], bool]] = []
        self._stopping = False
        self._reload_asked = False
        self._had_terminal = _has_terminal()

    def handle_signals(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)

    def start(self, name: str, start: Callable[[], Running], *, stop_timeout_s: float, stop_last: bool = False) -> None:
        """Start one more part; it is stopped before those started earlier, or else, with `stop_last`, after all others.

        Raises:
            Stopped: a signal came.
        """
        self.check_stopped()
        part = Part(name, start, stop_timeout_s)
        self._parts.insert(0 if stop_last else len(self._parts), part)
        self._launch(part)

    def run_once(self, helper: Running) -> None:
        """Look after a process that does one thing and ends: it is not started again, and is stopped with the parts."""
        self._helpers.append(helper)

    def add_chore(self, chore: Callable[[], bool]) -> None:
        """Call `chore` again and again while running, until it says that it is done; it must not take time."""
        self._chores.append(chore)

    def running(self, name: str) -> Running | None:
        """The process of a part; None where there is no such part, or it is down."""
        return next((part.running for part in self._parts if part.name == name), None)

    def has_part(self, name: str) -> bool:
        """Whether there is such a part, up or down."""
        return any(part.name == name for part in self._parts)

    def stop_part(self, name: str) -> None:
        """Stop one part for good."""
        for part in [part for part in self._parts if part.name == name]:
            self._parts.remove(part)
            _stop(part)

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

    @property
    def stopping(self) -> bool:
        """Whether a signal came."""
        return self._stopping

    def check_stopped(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self._stopping:
            raise Stopped

    def run(self, reload: Callable[[], None]) -> None:
        """Replace parts that die, and reload when SIGHUP asks for it, until another signal comes.

        Raises:
            Stopped: a signal came.
        """
        while True:
            self.replace_dead()
            self._chores = [chore for chore in self._chores if not chore()]
            if self._reload_asked:
                self._reload_asked = False
                reload()
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
        self._helpers = [helper for helper in self._helpers if not helper.exited()]
        return died

    def stop(self) -> None:
        """Stop all parts, the last started first."""
        for helper in self._helpers:
            helper.stop(0)
        self._helpers.clear()
        for part in reversed(self._parts):
            _stop(part)
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

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        # The kernel says SIGHUP as well when the terminal that this was started in is closed.
        if self._had_terminal and not _has_terminal():
            self._stopping = True
        else:
            self._reload_asked = True


def _stop(part: Part) -> None:
    if part.running is not None:
        part.running.stop(part.stop_timeout_s)
        part.running = None


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, tty(4)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
