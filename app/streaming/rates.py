"""So much a second, and as much at once: a token bucket."""

import time
from collections.abc import Callable


class Budget:
    """What may be spent in a second; what is left of a second that has passed is not saved up.

    Args:
        per_s: of whatever is counted; it is also the most that is there at once.
        clock: seconds that never go back.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s)
        self._left = self._most
        self._clock = clock
        self._seen_s = clock()

    def take(self, amount: float = 1.0) -> bool:
        """Spend, where there is enough left; whether there was."""
        self._refill()
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def owe(self, amount: float) -> float:
        """Spend what has been used already; seconds to wait until the debt is paid."""
        self._refill()
        self._left -= amount
        return max(0.0, -self._left / self._per_s)

    def _refill(self) -> None:
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
