"""Whether the time of day can be believed: a machine without a battery starts with an old one, in which ended stays go on."""

import ctypes
import threading
from collections.abc import Callable
from typing import Final

from app.edge.clock import Clock

# adjtimex(2), linux/timex.h: the state of a clock that nothing disciplines, and more room than `struct timex` takes.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512


def is_synchronised() -> bool:
    """Whether the kernel's clock is kept by NTP; no, where that cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    # All zero asks, and sets nothing.
    return 0 <= int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))) < _TIME_ERROR


class LatestTime:
    """What time it is at the least: a clock that is set back revives nobody.

    Args:
        synchronised: only times at which it says so are believed.
    """

    def __init__(self, clock: Clock, synchronised: Callable[[], bool]) -> None:
        self._clock = clock
        self._synchronised = synchronised
        self._ahead: float | None = None  # the highest that was believed, less the monotonic time of then
        self._guard = threading.Lock()

    def now(self) -> float:
        """Unix seconds: the clock's, or the highest one believed and what has passed since, whichever is later."""
        believed = self._synchronised()
        with self._guard:
            now, monotonic = self._clock.now(), self._clock.monotonic()
            if believed and (self._ahead is None or now - monotonic > self._ahead):
                self._ahead = now - monotonic
            return now if self._ahead is None else max(now, self._ahead + monotonic)
