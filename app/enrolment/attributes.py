"""What is kept of a person beside the names: a window of validity, and metadata. Pure."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from app.db.models import MAX_METADATA_BYTES
from app.errors import InvalidMetadata, InvalidValidity, MetadataTooLarge

MAX_METADATA_DEPTH: Final = 10

_MOMENT: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)(Z|[+-]\d{2}:?\d{2})?", re.ASCII | re.IGNORECASE
)


def parse_moment(text: str) -> datetime:
    """A moment, in UTC.

    Args:
        text: ISO 8601 with date, time and zone: `2026-03-29T02:30:00+01:00`, `2026-03-29T00:30Z`.

    Raises:
        ValueError: it is none, has no zone, or lies outside the years 1 to 9999; the message says which.
    """
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError("is not a moment in ISO 8601, such as 2026-03-29T02:30:00+01:00")
    if found[3] is None:
        raise ValueError("has no zone: add Z for UTC, or an offset such as +01:00")
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3].upper()}").astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None
    except ValueError:
        raise ValueError("is not a date and time that there is") from None


def check_window(valid_from: datetime | None, valid_until: datetime | None) -> None:
    """Refuse a window that never opens; None is unbounded.

    Raises:
        InvalidValidity: `valid_from` is not before `valid_until`.
    """
    if valid_from is not None and valid_until is not None and valid_from >= valid_until:
        raise InvalidValidity(
            "valid_from has to be before valid_until: a person is valid from the one until the other."
        )


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that the database would not give back as they came.

    Args:
        metadata: a JSON object.

    Raises:
        MetadataTooLarge: more than `MAX_METADATA_BYTES` as the database writes it.
        InvalidMetadata: nested more than `MAX_METADATA_DEPTH` deep, or with NUL, half a character or an infinite number.
    """
    size = 0
    for piece in _pieces(metadata):
        size += piece
        if size > MAX_METADATA_BYTES:
            raise MetadataTooLarge(f"The metadata has more than {MAX_METADATA_BYTES} bytes as JSON text.")


def _pieces(metadata: Mapping[str, Any]) -> Iterator[int]:
    """The lengths, in bytes, of the parts that the JSON text is made of, as PostgreSQL writes it."""
    waiting: list[tuple[Any, int]] = [(metadata, 1)]
    while waiting:
        value, depth = waiting.pop()
        if not isinstance(value, Mapping | list | tuple):
            yield _scalar_bytes(value)
            continue
        if depth > MAX_METADATA_DEPTH:
            raise InvalidMetadata(f"The metadata is nested more than {MAX_METADATA_DEPTH} deep.")
        yield 2 + 2 * max(0, len(value) - 1)  # brackets, and ", " between the parts
        if isinstance(value, Mapping):
            yield from (_text_bytes(key) + 2 for key in value)
            value = value.values()
        waiting += ((part, depth + 1) for part in value)


def _scalar_bytes(value: object) -> int:
    if isinstance(value, str):
        return _text_bytes(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidMetadata("The metadata holds a number that is too large.")
        return len(format(Decimal(repr(value)), "f"))  # PostgreSQL writes all digits: of 1e300, 301
    return len(json.dumps(value))


def _text_bytes(text: str) -> int:
    if "\0" in text:
        raise InvalidMetadata("The metadata holds a NUL character (\\u0000).")
    try:
        return len(json.dumps(text, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise InvalidMetadata("The metadata holds half a character (a lone surrogate).") from None
