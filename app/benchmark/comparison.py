"""One thing done in two ways, and whether ours is as much faster as the old system claimed to be."""

from dataclasses import asdict, dataclass
from typing import Any

from app.benchmark.timing import Timing


@dataclass(frozen=True, slots=True)
class Claim:
    """What the old system claimed: so many percent faster, from `low` to `high`.

    Attributes:
        of_rate: of requests in the same time, not of the time that one takes.
    """

    low: float
    high: float
    of_rate: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same work in the naive way and in ours.

    Attributes:
        name: of what is compared.
        claim: what has to be beaten.
        naive, own: times of the same work.
        ways: what was done, for readers.
    """

    name: str
    claim: Claim
    naive: Timing
    own: Timing
    ways: str

    @property
    def faster_percent(self) -> float:
        """By the medians: how much less time it takes or, for a rate, how much more is done in the same time.

        To a tenth, as it is told: what reads as the claim does not beat it.
        """
        if self.claim.of_rate:
            return round(100.0 * (self.naive.median_ms / self.own.median_ms - 1.0), 1)
        return round(100.0 * (1.0 - self.own.median_ms / self.naive.median_ms), 1)

    @property
    def holds(self) -> bool:
        """Whether it is more than the most that was claimed."""
        return self.faster_percent > self.claim.high

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "ways": self.ways,
            "naive": asdict(self.naive),
            "own": asdict(self.own),
            "faster_percent": self.faster_percent,
            "measure": "rate" if self.claim.of_rate else "time",
            "claim_percent": [self.claim.low, self.claim.high],
            "holds": self.holds,
        }
