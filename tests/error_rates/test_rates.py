"""Bounds, and thresholds for a chosen rate."""

import numpy as np
import pytest

from app.deadline import NO_DEADLINE
from app.error_rates.comparing import compare
from app.error_rates.rates import Rate, Tradeoff, identification, verification
from app.error_rates.tally import Histograms, Tally
from tests.error_rates.conftest import crowd
from tests.error_rates.oracle import expected

MARGIN = 0.05


@pytest.fixture(scope="module")
def templates():
    return crowd(40, seed=2)


@pytest.fixture(scope="module")
def found(templates):
    return compare(templates, probes=len(templates), threshold=0.3, deadline=NO_DEADLINE)


def tally(*distances: float) -> Tally:
    counted = Tally(0.5)
    counted.add(np.array(distances, np.float32))
    return counted


@pytest.mark.parametrize(
    ("rate", "low", "high"),
    [
        (Rate(0, 0), 0.0, 1.0),
        (Rate(0, 300), 0.0, 0.01),  # the rule of three
        (Rate(0, 2), 0.0, 1.0),
        (Rate(300, 300), 0.99, 1.0),
        (Rate(10, 100), 0.0552, 0.1744),  # Wilson's, as R's prop.test(10, 100, correct = FALSE) gives it
    ],
)
def test_bounds(rate, low, high):
    assert rate.bounds == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.29])
def test_a_threshold_for_a_rate_keeps_to_it_and_a_larger_one_would_not_or_gains_nothing(templates, found, rate):
    for tradeoff, positive, negative in (
        (verification(found, 0.3).tradeoff, "fmr", "fnmr"),
        (identification(found.searches, 0.3, MARGIN).tradeoff, "fpir", "fnir"),
    ):
        point = tradeoff.at_rate(rate)
        at = expected(templates, point.threshold, MARGIN)
        assert (point.false_positive.errors, point.false_positive.trials) == getattr(at, positive)
        assert (point.false_negative.errors, point.false_negative.trials) == getattr(at, negative)
        assert point.false_positive.value <= rate
        beyond = expected(templates, point.threshold + 0.0002, MARGIN)
        errors, trials = getattr(beyond, positive)
        assert errors > rate * trials or getattr(beyond, negative) == getattr(at, negative)


def test_the_curve_trades_one_error_for_the_other(found):
    for tradeoff in (verification(found, 0.3).tradeoff, identification(found.searches, 0.3, MARGIN).tradeoff):
        points = tradeoff.curve()
        assert 10 < len(points) <= 121
        positives = [point.false_positive.errors for point in points]
        negatives = [point.false_negative.errors for point in points]
        thresholds = [point.threshold for point in points]
        assert thresholds == sorted(set(thresholds))
        assert positives == sorted(positives)
        assert negatives == sorted(negatives, reverse=True)
        # What the page shows for a rate is a point of the curve, where the rate allows few errors.
        assert tradeoff.at_rate(3 / points[0].false_positive.trials) in points


def test_of_a_hundred_29_percent_are_29():
    distances = tally(*np.linspace(0.01, 1.0, 100))
    tradeoff = Tradeoff.between(distances, 100, distances, 100)
    assert tradeoff.at_rate(0.29).false_positive.errors == 29


def test_without_two_persons_no_threshold_follows():
    tradeoff = Tradeoff.between(tally(), 0, tally(0.1), 1)
    assert (tradeoff.at_rate(0.1), tradeoff.curve()) == (None, [])


def test_where_even_zero_is_too_large_it_is_zero_and_says_what_that_costs():
    tradeoff = Tradeoff.between(tally(0.0, 0.0, 0.7), 3, tally(0.1), 1)
    point = tradeoff.at_rate(0.001)
    assert (point.threshold, point.false_positive.errors, point.false_negative.errors) == (0.0, 2, 1)


def test_histograms_hold_every_distance_once(found):
    histograms = Histograms.of(found.genuine, found.impostor, bins=60)
    assert sum(histograms.genuine) == found.genuine.total
    assert sum(histograms.impostor) == found.impostor.total
    assert len(histograms.genuine) == len(histograms.impostor) == 60


def test_a_bin_holds_what_is_above_its_lower_and_up_to_its_upper_edge():
    one = tally(0.0, 0.1, 0.10005, 0.2, 2.0)
    assert one.histogram(0.2, 2) == [2, 2]
    assert Histograms.of(one, tally(), bins=4).genuine == [4, 0, 0, 1]
    assert one.within == 4
