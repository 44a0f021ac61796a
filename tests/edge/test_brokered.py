"""The case that failed and random histories, through a real Mosquitto; and faults in the code, which are found there too.

The suite plays a share of the ten thousand. All of them, in some minutes:

    FACEDEX_TEST_HISTORIES=10000 scripts/test tests/edge/test_brokered.py -k no_random_history
"""

import logging
import os
from itertools import islice

import pytest
import structlog

from tests.edge.brokered import RealBroker, Site, play, play_all
from tests.edge.histories import Parts, Run
from tests.edge.mosquitto import needs_mosquitto
from tests.edge.test_histories import MUTANTS, mutated, the_case_that_failed

pytestmark = needs_mosquitto

HISTORIES = int(os.environ.get("FACEDEX_TEST_HISTORIES", "600"))
SITES = 12
_TRIES = 5
# Nothing comes retained: Mosquitto is told not to send what it has kept.
_WITHOUT_EFFECT = {"retained reports"}


@pytest.fixture(autouse=True)
def _quiet():
    """Histories have much to tell."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "site")
    yield site
    site.close()


@pytest.mark.parametrize("stamped", [True, False])
def test_the_case_that_failed_opens_one_lock(site, stamped):
    broker = RealBroker(site, "zigbee2mqtt")
    try:
        assert the_case_that_failed(Parts(), stamped, broker) == (["DC006"], [])
        assert [message.topic for message in broker.commands()] == ["zigbee2mqtt/DC006/set"]
    finally:
        broker.close()


@pytest.mark.timeout(300 + HISTORIES // 5)
def test_no_random_history_opens_a_lock_outside_the_captured_set(tmp_path, capsys):
    tally = play_all(range(HISTORIES), tmp_path, SITES)
    with capsys.disabled():
        print(f"\n{tally}")  # noqa: T201
    assert tally.wrong == {}
    assert tally.histories == HISTORIES
    # They are about something: many open what they should, and many things go wrong on the way.
    assert tally.unlocked > HISTORIES / 10
    assert tally.restarts > HISTORIES / 10
    assert tally.deaths > HISTORIES / 200
    assert tally.reboots > HISTORIES / 20


def test_faults_are_found(site):
    """Each with one of the first histories in which it shows with the made-up broker: the real one has a clock of its own."""
    missed = []
    for name in sorted(MUTANTS.keys() - _WITHOUT_EFFECT):
        parts = mutated(*MUTANTS[name])
        seeds = islice((seed for seed in range(2_500) if Run(seed, parts).play()), _TRIES)
        if not any(play(site, seed, parts).controller.problems for seed in seeds):
            missed.append(name)
    assert missed == []
