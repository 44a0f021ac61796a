"""Validity windows and metadata as clients send them."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from app.enrolment.attributes import MAX_METADATA_DEPTH, check_metadata, check_window, parse_moment
from app.errors import InvalidMetadata, InvalidValidity, MetadataTooLarge


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-29T00:30:00Z", datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),
        ("2026-03-29t00:30z", datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),
        # The hour that Ljubljana's clocks leave out that night, and the hour that they have twice in autumn.
        ("2026-03-29T03:00:00+02:00", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
        ("2026-10-25T02:30:00+02:00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        ("2026-10-25T02:30:00+01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        ("2026-01-01 00:00:00.000001-0930", datetime(2026, 1, 1, 9, 30, 0, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_moment_with_a_zone_is_kept_in_utc(text, moment):
    parsed = parse_moment(text)
    assert parsed == moment
    assert parsed.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2026-03-29T00:30:00", "no zone"),
        ("2026-03-29", "ISO 8601"),
        ("1774744200", "ISO 8601"),
        ("", "ISO 8601"),
        ("２０２６-03-29T00:30:00Z", "ISO 8601"),
        ("2026-03-29T00:30:00Z\n", "ISO 8601"),
        ("2026-02-30T00:00:00Z", "date and time that there is"),
        ("2026-03-29T24:30:00Z", "date and time that there is"),
        ("0000-01-01T00:00:00Z", "date and time that there is"),
        ("2026-03-29T00:30:00+25:00", "date and time that there is"),
        ("0001-01-01T00:00:00+14:00", "years 1 to 9999"),
        ("9999-12-31T23:59:59-01:00", "years 1 to 9999"),
        ("10000-01-01T00:00:00Z", "ISO 8601"),
    ],
)
def test_what_is_no_moment_is_refused_and_the_message_says_why(text, says):
    with pytest.raises(ValueError, match=says):
        parse_moment(text)


def test_a_window_that_never_opens_is_refused():
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    check_window(noon, None)
    check_window(None, noon)
    check_window(noon, noon + timedelta(microseconds=1))
    for until in (noon, noon - timedelta(seconds=1)):
        with pytest.raises(InvalidValidity):
            check_window(noon, until)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_ordinary_metadata_are_kept():
    check_metadata({})
    check_metadata({"room": 12, "name": "Škoda 😀", "tags": ["a", None, True, 1.5, {"x": []}], "line": "a\nb\x01"})
    check_metadata(nested(MAX_METADATA_DEPTH))
    check_metadata({"a": "x" * (16_384 - len('{"a": ""}'))})


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"a": "x" * 16_384}, MetadataTooLarge),
        ({"a": "x" * (16_384 - len('{"a": ""}') + 1)}, MetadataTooLarge),
        ({"a": "😀" * 4_096}, MetadataTooLarge),
        ({"a": "x" * 10_000_000}, MetadataTooLarge),
        ({str(n): 1e308 for n in range(60)}, MetadataTooLarge),  # short here, 309 digits each in the database
        ({str(n): n for n in range(5_000)}, MetadataTooLarge),
        (nested(MAX_METADATA_DEPTH + 1), InvalidMetadata),
        ({"a": [[[[[[[[[[]]]]]]]]]]}, InvalidMetadata),
        ({"a": "\0"}, InvalidMetadata),
        ({"\0": 1}, InvalidMetadata),
        ({"a": ["\ud800"]}, InvalidMetadata),
        ({"\udc00": 1}, InvalidMetadata),
        (json.loads('{"a": 1e999}'), InvalidMetadata),
        ({"a": float("nan")}, InvalidMetadata),
    ],
)
def test_metadata_that_would_not_come_back_are_refused(metadata, error):
    with pytest.raises(error):
        check_metadata(metadata)


def test_a_tower_of_brackets_is_refused_without_a_recursion():
    tower: list[object] = []
    for _ in range(100_000):
        tower = [tower]
    with pytest.raises(InvalidMetadata, match="nested"):
        check_metadata({"a": tower})
