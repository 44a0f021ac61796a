"""What a gallery compared with itself says, beside the plainest way to find it out."""

import numpy as np
import pytest

from app.deadline import NO_DEADLINE, Deadline
from app.error_rates import comparing
from app.error_rates.comparing import Templates, compare
from app.error_rates.rates import Rate, identification, verification
from tests.error_rates.conftest import crowd
from tests.error_rates.oracle import Expected, expected

MARGIN = 0.05


def seen(templates: Templates, threshold: float, *, probes: int | None = None, margin: float = MARGIN) -> Expected:
    found = compare(templates, probes=probes or len(templates), threshold=threshold, deadline=NO_DEADLINE)
    one_to_one = verification(found, threshold).current
    one_to_many = identification(found.searches, threshold, margin)
    return Expected(
        fmr=pair(one_to_one.false_positive),
        fnmr=pair(one_to_one.false_negative),
        fpir=pair(one_to_many.current.false_positive),
        fnir=pair(one_to_many.current.false_negative),
        misnamed=one_to_many.misnamed,
        ambiguous=one_to_many.ambiguous,
    )


def pair(rate: Rate) -> tuple[int, int]:
    return rate.errors, rate.trials


@pytest.mark.parametrize("cells", [1, 300, 4_000_000])
@pytest.mark.parametrize("threshold", [0.02, 0.1234567, 0.3, 1.1])
def test_every_rate_is_the_one_that_counting_one_by_one_finds(monkeypatch, threshold, cells):
    monkeypatch.setattr(comparing, "_BLOCK_CELLS", cells)
    templates = crowd(30)
    assert seen(templates, threshold) == expected(templates, threshold, MARGIN)


def test_the_made_up_people_are_mistaken_in_every_way():
    """Else the comparison with the oracle would show nothing."""
    found = expected(crowd(30), 0.3, MARGIN)
    assert min(found.fmr[0], found.fnmr[0], found.fpir[0], found.fnir[0], found.misnamed, *found.ambiguous) > 0


@pytest.mark.parametrize("persons", [1, 2, 3])
def test_few_persons_leave_nobody_to_be_taken_for(persons):
    templates = crowd(persons, seed=3)
    assert seen(templates, 0.3) == expected(templates, 0.3, MARGIN)


def test_a_gallery_without_templates_has_no_trials():
    empty = Templates(np.empty((0, 8), np.float32), np.empty(0, np.int64))
    assert seen(empty, 0.3) == Expected((0, 0), (0, 0), (0, 0), (0, 0), 0, (0, 0))
    assert empty.persons == 0


def test_fewer_probes_are_compared_with_everybody_and_each_pair_counts_once():
    templates = crowd(30)
    rows = np.random.default_rng(0).permutation(len(templates))[:17].tolist()
    assert seen(templates, 0.3, probes=17) == expected(templates, 0.3, MARGIN, rows=rows)


def test_at_the_deadline_it_ends_with_what_has_been_compared(monkeypatch):
    monkeypatch.setattr(comparing, "_BLOCK_CELLS", 1)  # a probe a block
    templates, told = crowd(30), []
    found = compare(templates, probes=len(templates), threshold=0.3, deadline=Deadline.after(-1.0), tell=told.append)
    assert (len(found.searches.mate), told) == (1, [1])
    row = int(np.random.default_rng(0).permutation(len(templates))[0])
    assert found.impostor.total + found.genuine.total == len(templates) - 1
    assert identification(found.searches, 0.3, MARGIN).current.false_positive.trials == 1
    assert expected(templates, 0.3, MARGIN, rows=[row]).fmr == pair(verification(found, 0.3).current.false_positive)
