"""Whether something is as much faster as was claimed."""

import pytest

from app.benchmark.comparison import Claim, Comparison
from app.benchmark.timing import summary, time_interleaved


def compared(naive_ms: float, own_ms: float, *, of_rate: bool = False) -> Comparison:
    claim = Claim(40, 60, of_rate=of_rate)
    return Comparison("x", claim, summary("naive", [naive_ms]), summary("own", [own_ms]), "")


@pytest.mark.parametrize(
    ("naive_ms", "own_ms", "of_rate", "percent", "holds"),
    [
        (10, 3.9, False, 61, True),
        (10, 4, False, 60, False),  # as much as was claimed at the most is not more
        (10, 5, False, 50, False),
        (10, 20, False, -100, False),
        (10, 6.2, True, 61.3, True),
        (10, 6.5, True, 53.8, False),
    ],
)
def test_faster_is_less_time_or_a_higher_rate(naive_ms, own_ms, of_rate, percent, holds):
    comparison = compared(naive_ms, own_ms, of_rate=of_rate)
    assert comparison.faster_percent == pytest.approx(percent, abs=0.05)
    assert comparison.holds is holds
    told = comparison.as_json()
    assert (told["holds"], told["claim_percent"]) == (holds, [40, 60])


def test_the_ways_take_turns_and_their_first_time_is_not_counted():
    done = []
    ways = {"a": lambda run: done.append(("a", run)), "b": lambda run: done.append(("b", run))}
    timings = time_interleaved(ways, 2)
    assert done == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [(timing.name, timing.runs) for timing in timings] == [("a", 2), ("b", 2)]
