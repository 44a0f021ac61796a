"""Who vouches for the time of day, and between which bounds it then is."""

import pytest

from app.edge.clock import VirtualClock
from app.edge.timekeeping import TimeOfDay, agrees_with_battery, is_synchronised, parsed_date

NOW = 1_800_000_000.0


def time_of_day(clock: VirtualClock, *, battery: bool = False, synchronised=lambda: False) -> TimeOfDay:
    return TimeOfDay(clock, synchronised=synchronised, battery=lambda now: battery)


def test_what_nobody_vouches_for_is_not_known_and_is_what_the_clock_says():
    unknown = time_of_day(VirtualClock(NOW))
    assert unknown.known_by is None
    assert unknown.bounds() == (NOW, NOW)


def test_ntp_vouches_while_it_keeps_the_clock_and_for_what_it_was_after_that():
    clock, vouched = VirtualClock(NOW, 5.0), [True]
    time = time_of_day(clock, synchronised=lambda: bool(vouched))
    assert time.known_by == "ntp"
    vouched.clear()
    clock.sleep(10)
    clock.jump(-3600)
    assert time.known_by == "ntp"
    assert time.bounds() == (NOW + 10 - 3600, NOW + 10)


def test_a_battery_vouches_for_the_time_at_the_start():
    clock = VirtualClock(NOW)
    time = time_of_day(clock, battery=True)
    clock.jump(-60)
    assert time.known_by == "battery"
    assert time.bounds() == (NOW - 60, NOW)


def test_the_source_vouches_within_what_an_answer_takes():
    clock = VirtualClock(NOW - 500, 100.0)
    time = time_of_day(clock)
    time.told(NOW, 100.0, 101.5)
    clock.sleep(2)
    assert time.known_by == "source"
    assert time.bounds() == (NOW - 498, NOW + 1 + 2)
    time.told(NOW + 1000, 103.0, 120.0)  # a slow answer says less than the one before
    assert time.bounds() == (NOW - 498, NOW + 1 + 2)


def test_ntp_is_believed_more_than_the_source():
    time = time_of_day(VirtualClock(NOW, 5.0), synchronised=lambda: True)
    time.told(NOW - 3600, 5.0, 5.1)
    assert time.known_by == "ntp"
    assert time.bounds() == (NOW, NOW)


@pytest.mark.parametrize(
    ("since_epoch", "now", "agrees"),
    [
        (str(int(NOW) + 2), NOW, True),
        ("120", NOW, False),  # a Raspberry Pi 5 without a battery
        ("120", 125.0, False),  # nothing else on that machine knew better either
        (str(int(NOW) + 7200), NOW, False),  # local time
        ("", NOW, False),
        (None, NOW, False),
    ],
)
def test_a_clock_with_a_battery_is_believed_where_it_says_the_same(tmp_path, since_epoch, now, agrees):
    if since_epoch is not None:
        (tmp_path / "rtc0").mkdir()
        (tmp_path / "rtc0" / "since_epoch").write_text(since_epoch)
    assert agrees_with_battery(now, tmp_path) is agrees
    assert agrees_with_battery(now, tmp_path / "nowhere") is False


@pytest.mark.parametrize(
    ("header", "date"),
    [
        ("Fri, 15 Jan 2027 08:00:00 GMT", NOW),
        (None, None),
        ("yesterday", None),
        ("Fri, 99 Jan 2027 08:00:00 GMT", None),
    ],
)
def test_the_date_of_an_answer_is_read_where_there_is_one(header, date):
    assert parsed_date(header) == date


def test_the_kernel_can_be_asked():
    assert is_synchronised() in (True, False)
