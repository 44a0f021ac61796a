"""What zigbee2mqtt says about a lock, and what it is told: topics and payloads, of which none is trusted."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from app.edge.errors import ConfigError

UNLOCK: Final = b'{"state": "UNLOCK"}'
"""The command: what it leads to is the same however often it comes."""

_NAME_BYTES_MAX: Final = 200
_PAYLOAD_BYTES_MAX: Final = 65_536
# zigbee2mqtt's own topics lie beside the devices'.
_RESERVED: Final = frozenset({"bridge"})
# `last_seen` is in milliseconds where it is a number; this is in the year 5138, so that dates stay representable.
_MILLISECONDS_MAX: Final = 1e14


@dataclass(frozen=True, slots=True)
class OccupancyReport:
    """Whether a lock is touched, and when that was so, in Unix seconds of the sender's clock; None where it does not say."""

    occupied: bool
    at: float | None


class MalformedReport(ValueError):
    """A payload that zigbee2mqtt does not send; `str` says what is wrong, without repeating it."""


def is_lock_name(name: object) -> bool:
    """Whether it is one level of a topic: no wildcard, no `/`, no control character, nothing that UTF-8 cannot express."""
    if not isinstance(name, str) or not name.strip() or name in _RESERVED:
        return False
    if not name.isprintable() or any(char in "+#/" for char in name):
        return False
    try:
        return len(name.encode()) <= _NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def checked_locks(names: Iterable[str]) -> frozenset[str]:
    """The names of locks in the configuration.

    Raises:
        ConfigError: one of them cannot be a lock's.
    """
    given = frozenset(names)
    for name in given:
        if not is_lock_name(name):
            raise ConfigError(f"{ascii(name)[:80]} cannot be a lock: it is no single level of an MQTT topic.")
    return given


def state_topic(base: str, lock: str) -> str:
    """Where a lock reports."""
    return f"{base}/{lock}"


def command_topic(base: str, lock: str) -> str:
    """Where a lock is told what to do."""
    return f"{base}/{lock}/set"


def parse_report(payload: bytes) -> OccupancyReport | None:
    """What a lock reports about its occupancy; None where it says nothing about it.

    What is in doubt is a release: `null`, which stands for unknown, and a release at a time that cannot be read.

    Raises:
        MalformedReport: it is no JSON object, its occupancy is no truth value, or it is occupied at a time that cannot be read.
    """
    if len(payload) > _PAYLOAD_BYTES_MAX:
        raise MalformedReport("it is too long")
    try:
        parsed = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedReport("it is no JSON") from None
    if not isinstance(parsed, dict):
        raise MalformedReport("it is no JSON object")
    if "occupancy" not in parsed:
        return None
    occupied = parsed["occupancy"]
    if not isinstance(occupied, bool | None):
        raise MalformedReport("its occupancy is neither true nor false")
    try:
        return OccupancyReport(bool(occupied), _seconds(parsed.get("last_seen")))
    except MalformedReport:
        if occupied:
            raise
        return OccupancyReport(False, None)


def _seconds(last_seen: Any) -> float | None:
    """All forms that zigbee2mqtt can be set to: ISO 8601, with or without an offset, and milliseconds.

    Raises:
        MalformedReport: it is something else.
    """
    if last_seen is None:
        return None
    try:
        if isinstance(last_seen, str):
            stamp = datetime.fromisoformat(last_seen)
            # Without an offset it is this place's time; a controller and its broker stand in one place.
            return stamp.timestamp() if stamp.tzinfo else stamp.astimezone(UTC).timestamp()
        number = isinstance(last_seen, int | float) and not isinstance(last_seen, bool)
        if number and math.isfinite(last_seen) and 0 <= last_seen <= _MILLISECONDS_MAX:
            return float(last_seen) / 1000
    except (ValueError, OverflowError, OSError):
        pass
    raise MalformedReport("its last_seen is no time")
