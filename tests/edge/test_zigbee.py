"""What zigbee2mqtt says, and what it might be made to say."""

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.edge.zigbee import MalformedReport, OccupancyReport, is_lock_name, parse_report


def body(**fields) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("payload", "report"),
    [
        (body(occupancy=True), OccupancyReport(True, None)),
        (body(occupancy=False, battery=98, linkquality=70), OccupancyReport(False, None)),
        (body(occupancy=True, last_seen=1_760_000_000_500), OccupancyReport(True, 1_760_000_000.5)),
        (body(occupancy=True, last_seen="2025-10-09T08:53:20.500Z"), OccupancyReport(True, 1_760_000_000.5)),
        (body(occupancy=True, last_seen="2025-10-09T10:53:20.500+02:00"), OccupancyReport(True, 1_760_000_000.5)),
        (body(occupancy=True, last_seen=None), OccupancyReport(True, None)),
        (body(occupancy=None), OccupancyReport(False, None)),
        (body(occupancy=False, last_seen="yesterday"), OccupancyReport(False, None)),
        (body(state="LOCK", battery=98), None),
        (b"{}", None),
    ],
)
def test_reports(payload, report):
    assert parse_report(payload) == report


def test_a_time_without_an_offset_is_this_places():
    report = parse_report(body(occupancy=True, last_seen="2025-10-09T08:53:20"))
    assert report is not None
    assert report.at is not None
    assert abs(report.at - 1_760_000_000) <= 15 * 3_600


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"ON",
        b"\xff",
        b"null",
        b"true",
        b'"occupancy"',
        b"[" * 60_000,
        b"9" * 5_000,
        b'{"occupancy": true, "x": "' + b"x" * 70_000 + b'"}',
        body(occupancy="true"),
        body(occupancy=1),
        body(occupancy=[True]),
        body(occupancy=True, last_seen="yesterday"),
        body(occupancy=True, last_seen=True),
        body(occupancy=True, last_seen=-1),
        body(occupancy=True, last_seen=10**400),
        body(occupancy=True, last_seen=[1]),
        b'{"occupancy": true, "last_seen": NaN}',
        b'{"occupancy": true, "last_seen": 1e999}',
        body(occupancy=True, last_seen="0001-01-01T00:00:00+14:00"),
        body(occupancy=True, last_seen="9999-12-31T23:59:59-14:00"),
    ],
)
def test_hostile_payloads_are_malformed_or_say_nothing(payload):
    try:
        report = parse_report(payload)
    except MalformedReport:
        return
    assert report is None or report.at is None or abs(report.at) < 1e12


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(
        lambda value: json.dumps({"occupancy": True, "last_seen": value}).encode()
    )
)
@example(b'{"occupancy": true, "occupancy": "x"}')
def test_no_payload_is_an_error_of_another_kind(payload):
    with contextlib.suppress(MalformedReport):
        parse_report(payload)


@pytest.mark.parametrize("name", ["DC001", "Haupteingang links", "дверь", "門", "lock-1_2.3", "$SYS"])
def test_names_of_locks(name):
    assert is_lock_name(name)


@pytest.mark.parametrize(
    "name",
    [None, 7, "", "  ", "+", "#", "a/b", "/", "../x", "a\0b", "a\x7f", "a\u2028b", "\ud800", "bridge", "ä" * 101],
)
def test_what_is_no_name(name):
    assert not is_lock_name(name)
