"""What time it is: said to whatever needs to know, so that tests and the simulator can say it."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks in one: `now` for what is agreed on with others, `monotonic` for how long something took."""

    def now(self) -> float:
        """Unix seconds. It may jump, either way: a machine without a battery learns the time after its start."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; it never jumps, and means nothing to other processes."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let that much time go by."""
        ...


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))


class VirtualClock:
    """One that stands still until it is told to go on; `sleep` moves it.

    Args:
        now: Unix seconds at the start.
        monotonic: at the start.
    """

    def __init__(self, now: float = 0.0, monotonic: float = 0.0) -> None:
        self._guard = threading.Lock()
        self._now = now
        self._monotonic = monotonic

    def now(self) -> float:
        """Unix seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Both go on by that much, at once."""
        with self._guard:
            self._now += max(0.0, seconds)
            self._monotonic += max(0.0, seconds)

    def advance_to(self, now: float) -> None:
        """Both go on until that Unix time; not back."""
        self.sleep(now - self._now)

    def jump(self, seconds: float) -> None:
        """The time of day is set, forward or back; no time goes by."""
        with self._guard:
            self._now += seconds
