"""From counts to error rates, their bounds, and the trade between the two kinds of error. Pure.

FMR and FNMR are of comparisons (1:1), FPIR and FNIR of searches (1:N), as in ISO/IEC 19795-1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from app.error_rates.comparing import Comparisons, Searches
from app.error_rates.tally import Counts, Tally, threshold_of

_Z_95: Final = 1.959964
_CURVE_POINTS: Final = 120


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of so many trials went wrong."""

    errors: int
    trials: int

    @property
    def value(self) -> float | None:
        """The share; None without a trial."""
        return self.errors / self.trials if self.trials else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Of 95 %, were the trials independent: Wilson's interval; without an error (or without a success) the rule of three.

        Trials share people and pictures, so rather less is known.

        Source: Wilson (1927); Hanley and Lippman-Hand (1983), "If nothing goes wrong, is everything all right?".
        """
        n, errors = self.trials, self.errors
        if not n:
            return 0.0, 1.0
        if errors == 0:
            return 0.0, min(1.0, 3.0 / n)
        if errors == n:
            return max(0.0, 1.0 - 3.0 / n), 1.0
        share, z2 = errors / n, _Z_95**2
        middle = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold costs: FMR and FNMR, or FPIR and FNIR."""

    threshold: float
    false_positive: Rate
    false_negative: Rate


@dataclass(frozen=True, slots=True, eq=False)
class Tradeoff:
    """Both kinds of error at every threshold of the grid.

    Attributes:
        positives, negatives: int64, (STEPS + 1,): false positives, rising, and false negatives, falling.
        positive_trials, negative_trials: of how many.
    """

    positives: Counts
    positive_trials: int
    negatives: Counts
    negative_trials: int

    @classmethod
    def between(cls, wrong: Tally, wrong_trials: int, right: Tally, right_trials: int) -> Self:
        """Of the distances at which somebody else would be accepted, and of those at which the right person would."""
        return cls(wrong.cumulative, wrong_trials, right_trials - right.cumulative, right_trials)

    def at_rate(self, rate: float) -> Point | None:
        """The largest useful threshold of those with no more false positives than this share; None without a trial."""
        # 29 % of 100 are 29, whatever floating point makes of it.
        return self._allowing(math.floor(rate * self.positive_trials + 1e-9)) if self.positive_trials else None

    def curve(self) -> list[Point]:
        """The DET curve: the points that allow so and so many false positives, closer together where these are few."""
        points: list[Point] = []
        for errors in _spread(self.positive_trials):
            point = self._allowing(errors)
            if not points or point.threshold > points[-1].threshold:
                points.append(point)
        return points

    def _allowing(self, errors: int) -> Point:
        step = int(np.searchsorted(self.positives, errors, side="right")) - 1
        # The threshold of 0 has to do where even that has more.
        step = max(step, 0)
        # A larger threshold that accepts nobody more only takes risks.
        step = int(np.argmax(self.negatives <= self.negatives[step])) if self.negative_trials else step
        return Point(
            threshold_of(step),
            Rate(int(self.positives[step]), self.positive_trials),
            Rate(int(self.negatives[step]), self.negative_trials),
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """Comparisons (1:1): `current` at the threshold that was asked about."""

    current: Point
    tradeoff: Tradeoff


@dataclass(frozen=True, slots=True)
class Identification:
    """Searches (1:N) with each probe's own template left out.

    A probe whose person has other templates should be named; and with all of the person's templates left out, it should not
    be. What is ambiguous, because two persons are closer to each other than the margin, names nobody: a false negative of the
    former.

    Attributes:
        current: at the threshold that was asked about.
        misnamed: of those false negatives, how many were named as somebody else.
        ambiguous: probes of somebody enrolled, and of nobody enrolled, that found two persons too close to each other.
        tradeoff: at all thresholds.
    """

    current: Point
    misnamed: int
    ambiguous: tuple[int, int]
    tradeoff: Tradeoff


def verification(comparisons: Comparisons, threshold: float) -> Verification:
    """What comparisons of two templates cost."""
    genuine, impostor = comparisons.genuine, comparisons.impostor
    current = Point(
        threshold,
        Rate(impostor.within, impostor.total),
        Rate(genuine.total - genuine.within, genuine.total),
    )
    return Verification(current, Tradeoff.between(impostor, impostor.total, genuine, genuine.total))


def identification(searches: Searches, threshold: float, margin: float) -> Identification:
    """What searches cost, decided as `app.recognition.matching.decide` does."""
    limit, lead = np.float32(threshold), np.float32(margin)
    enrolled = np.isfinite(searches.mate)
    mate, rival, third = searches.mate[enrolled], searches.other[enrolled], searches.second[enrolled]
    foreign = np.isfinite(searches.other)
    first, second = searches.other[foreign], searches.second[foreign]
    # The distance from which on the decision is a match: never, where another person is too close.
    right = np.where(rival - mate >= lead, mate, np.inf)
    with np.errstate(invalid="ignore"):  # infinity less infinity: nobody there
        wrong = np.where(np.minimum(mate, third) - rival >= lead, rival, np.inf)
        alone = np.where(second - first >= lead, first, np.inf)
    named, unnamed = Tally(threshold), Tally(threshold)
    named.add(right)
    unnamed.add(alone)
    misnamed = int(np.count_nonzero(wrong <= limit))
    unclear = int(np.count_nonzero(np.minimum(mate, rival) <= limit)) - named.within - misnamed
    unclear_foreign = int(np.count_nonzero(first <= limit)) - unnamed.within
    current = Point(threshold, Rate(unnamed.within, len(first)), Rate(len(mate) - named.within, len(mate)))
    tradeoff = Tradeoff.between(unnamed, len(first), named, len(mate))
    return Identification(current, misnamed, (unclear, unclear_foreign), tradeoff)


def _spread(most: int) -> Iterator[int]:
    """From 0 to `most`, the lower numbers one by one."""
    if most:
        yield 0
        yield from sorted({int(number) for number in np.rint(np.geomspace(1, most, _CURVE_POINTS))})
