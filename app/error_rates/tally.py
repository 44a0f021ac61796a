"""Distances, counted on a grid so fine that thresholds can be read off it. Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from app.vision.faces import Float32Array

Counts = npt.NDArray[np.int64]

STEPS: Final = 20_000
"""Of the grid, over all cosine distances, 0 to 2."""
_PER_UNIT: Final = STEPS / 2.0


def threshold_of(step: int) -> float:
    """The threshold at a step of the grid."""
    return step / _PER_UNIT


class Tally:
    """How many distances are within each threshold of the grid, and exactly how many within one that need not be on it."""

    def __init__(self, threshold: float) -> None:
        self._threshold = np.float32(threshold)
        self._counts: Counts = np.zeros(STEPS + 1, np.int64)
        self.within = 0

    def add(self, distances: Float32Array) -> None:
        """Count cosine distances, float32, (N,); what is infinite is in the total alone, see `total`."""
        finite = distances[np.isfinite(distances)]
        steps = np.clip(np.ceil(finite * np.float32(_PER_UNIT)), 0, STEPS).astype(np.intp)
        self._counts += np.bincount(steps, minlength=STEPS + 1)
        self.within += int(np.count_nonzero(finite <= self._threshold))

    @property
    def total(self) -> int:
        """How many finite distances were counted."""
        return int(self._counts.sum())

    @property
    def cumulative(self) -> Counts:
        """int64, (STEPS + 1,): how many are within the threshold of each step."""
        return np.cumsum(self._counts)

    @property
    def largest(self) -> float:
        """The least threshold of the grid that all are within; 0 of none."""
        (steps,) = np.nonzero(self._counts)
        return threshold_of(int(steps[-1])) if len(steps) else 0.0

    def histogram(self, upto: float, bins: int) -> list[int]:
        """How many lie in each of so many equal bins from 0 to `upto`: above the lower edge, up to the upper one."""
        edges = np.rint(np.linspace(0.0, upto * _PER_UNIT, bins + 1)).astype(np.intp).clip(0, STEPS)
        below = self.cumulative[edges]
        below[0] = 0  # a distance of exactly 0 lies in the first bin
        return [int(count) for count in np.diff(below)]


@dataclass(frozen=True, slots=True)
class Histograms:
    """Genuine and impostor distances in the same bins.

    Attributes:
        upto: where the last bin ends; the first begins at 0.
        genuine, impostor: how many are in each bin.
    """

    upto: float
    genuine: list[int]
    impostor: list[int]

    @classmethod
    def of(cls, genuine: Tally, impostor: Tally, *, bins: int) -> "Histograms":
        """Over all distances that were seen."""
        # Bins as wide as a whole number of the grid's steps: else some would be wider than others.
        width = max(1, -(-round(max(genuine.largest, impostor.largest) * _PER_UNIT) // bins))
        upto = min(width * bins, STEPS) / _PER_UNIT
        return cls(upto, genuine.histogram(upto, bins), impostor.histogram(upto, bins))
