"""How far a live picture lies behind: after a stall, what comes first is what was to be seen before it."""

from typing import Final

LAG_MAX_S: Final = 0.3
"""A picture that lies further behind is not looked at: nobody knows what was touched when it was taken."""

# So fast the clocks of camera and machine may drift apart, in seconds per second, without being taken for a lag.
_DRIFT: Final = 0.001
# A stream begins with what lay ready at the camera; who of its pictures was the freshest is known after that.
_SETTLED_AFTER_S: Final = 0.5


class Lag:
    """Of one connection: the picture that came the soonest after its own time is taken to be fresh."""

    def __init__(self) -> None:
        self._base_s: float | None = None
        self._began_s = self._last_s = 0.0

    def of(self, position_s: float, now_s: float) -> float:
        """By how much the picture at this position of the stream lies behind, in seconds; infinite where that is not known yet.

        Args:
            now_s: of a monotonic clock, when it came.
        """
        apart_s = now_s - position_s
        if self._base_s is None:
            self._base_s, self._began_s = apart_s, now_s
        else:
            self._base_s = min(apart_s, self._base_s + _DRIFT * (now_s - self._last_s))
        self._last_s = now_s
        return apart_s - self._base_s if now_s - self._began_s >= _SETTLED_AFTER_S else float("inf")
