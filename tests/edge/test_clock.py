"""Clocks that can be told what time it is."""

import pytest

from app.edge.clock import Clock, SystemClock, VirtualClock


@pytest.mark.parametrize("clock", [SystemClock(), VirtualClock(1_000.0, 5.0)])
def test_sleep_lets_time_go_by_on_both(clock: Clock):
    now, monotonic = clock.now(), clock.monotonic()
    clock.sleep(0.01)
    clock.sleep(-1)
    assert clock.monotonic() >= monotonic + 0.009
    assert clock.now() > now - 1


def test_setting_a_virtual_clock_lets_no_time_go_by():
    clock = VirtualClock(1_000.0, 5.0)
    clock.jump(-300)
    assert (clock.now(), clock.monotonic()) == (700.0, 5.0)
    clock.advance_to(710.0)
    clock.advance_to(0.0)
    assert (clock.now(), clock.monotonic()) == (710.0, 15.0)
