"""Whether the time of day can be believed: a machine without a battery starts with an old one, in which ended stays go on."""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

from app.edge.clock import Clock

# adjtimex(2), linux/timex.h: the state of a clock that nothing disciplines, and more room than `struct timex` takes.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512
_BATTERY_CLOCKS: Final = Path("/sys/class/rtc")
# So far a clock with a battery may be off. One whose battery was empty begins anew, years before this program was made.
_BATTERY_OFF_S: Final = 60.0
_MADE_AFTER: Final = 1_767_225_600.0  # 2026
# An answer that took longer says little about what time it is.
_PROMPT_S: Final = 2.0

Voucher = Literal["ntp", "battery", "source"]


def is_synchronised() -> bool:
    """Whether the kernel's clock is kept by NTP; no, where that cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    # All zero asks, and sets nothing.
    return 0 <= int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))) < _TIME_ERROR


def agrees_with_battery(now: float, clocks: Path = _BATTERY_CLOCKS) -> bool:
    """Whether a clock that runs on a battery tells the same time.

    Args:
        now: Unix seconds.
        clocks: the kernel's folder of them. A clock that has no battery, as of a Raspberry Pi 5 without one, begins in 1970.
    """
    with contextlib.suppress(OSError, ValueError):
        for clock in clocks.iterdir():
            with contextlib.suppress(OSError, ValueError):
                if abs(int((clock / "since_epoch").read_text()) - now) <= _BATTERY_OFF_S and now >= _MADE_AFTER:
                    return True
    return False


def parsed_date(header: str | None) -> float | None:
    """The Unix time of an HTTP header `Date`; None where there is none that can be read."""
    try:
        return None if header is None else parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


class TimeOfDay:
    """What time it is at the least and at the most, by whoever vouches for it; any thread may ask.

    NTP does, while the kernel says so; so does, for good, a battery's clock that agrees at the start; and the source of
    members, whose answers say when they were made. What was believed once goes on by the monotonic clock: a clock that is set
    back revives nobody.

    Args:
        synchronised: whether NTP keeps the clock now.
        battery: whether, at this Unix time, a clock with a battery says the same.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        synchronised: Callable[[], bool] = is_synchronised,
        battery: Callable[[float], bool] = agrees_with_battery,
    ) -> None:
        self._clock = clock
        self._synchronised = synchronised
        self._guard = threading.Lock()
        # Unix time less monotonic time: the highest that was believed of the clock, and what the source said last.
        self._believed: float | None = None
        self._told: tuple[float, float] | None = None
        self._first: Voucher = "ntp"
        if not synchronised() and battery(clock.now()):
            self._believed, self._first = clock.now() - clock.monotonic(), "battery"

    def told(self, date: float, asked_s: float, came_s: float) -> None:
        """The source has answered.

        Args:
            date: the answer's, in whole Unix seconds.
            asked_s, came_s: of the monotonic clock, when it was asked and had answered.
        """
        with self._guard:
            if self._told is None or came_s - asked_s <= _PROMPT_S:
                self._told = date - came_s, date + 1 - asked_s

    @property
    def known_by(self) -> Voucher | None:
        """Who vouches for it; None: nobody, and nobody has since the start."""
        if self._is_synchronised():
            return "ntp"
        if self._told is not None:
            return "source"
        return None if self._believed is None else self._first

    def bounds(self) -> tuple[float, float]:
        """The earliest and the latest that it may be, in Unix seconds; the clock's own time is never outside."""
        synchronised = self._is_synchronised()
        with self._guard:
            now, monotonic = self._clock.now(), self._clock.monotonic()
            earliest = latest = now
            if self._believed is not None:
                latest = max(latest, self._believed + monotonic)
            if self._told is not None and not synchronised:
                earliest, latest = min(earliest, self._told[0] + monotonic), max(latest, self._told[1] + monotonic)
            return earliest, latest

    def _is_synchronised(self) -> bool:
        synchronised = self._synchronised()
        if synchronised:
            with self._guard:
                ahead = self._clock.now() - self._clock.monotonic()
                if self._believed is None or ahead > self._believed:
                    self._believed, self._first = ahead, "ntp"
        return synchronised
