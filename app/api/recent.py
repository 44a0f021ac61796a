"""What was found out a moment ago, so that anybody may ask as often as they like."""

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_RECENT_S: Final = 1.0
_USABLE_S: Final = 30.0


class Recent(Generic[T]):
    """The last result of an examination that may take seconds. One thread at a time examines.

    Others get, in the meantime, what was found last; they wait only where that is nothing, or as old as `_USABLE_S`.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._examining = threading.Lock()
        self._known: tuple[float, T] | None = None

    def get(self, examine: Callable[[], T]) -> T:
        """What was found within the last second, else what `examine` finds now. What it raises is not kept."""
        known = self._within(_RECENT_S)
        if known is None:
            usable = self._within(_USABLE_S)
            if not self._examining.acquire(blocking=usable is None):
                assert usable is not None
                return usable[1]
            try:
                known = self._within(_RECENT_S)  # another thread may have just been there
                if known is None:
                    found = examine()
                    # Dated when it is known: what took long to find out is not old at once.
                    known = self._known = (self._clock(), found)
            finally:
                self._examining.release()
        return known[1]

    def _within(self, seconds: float) -> tuple[float, T] | None:
        known = self._known
        return known if known is not None and self._clock() - known[0] <= seconds else None
