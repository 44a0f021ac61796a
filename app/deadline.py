"""A deadline that travels with a request through every step."""

import math
import time
from dataclasses import dataclass
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on this machine's monotonic clock, shared by all its processes (CLOCK_MONOTONIC)."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline that lies `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining_s(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining_s() <= 0.0


# For work that may take as long as it takes.
NO_DEADLINE: Final = Deadline(math.inf)
