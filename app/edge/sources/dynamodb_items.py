"""What stands in DynamoDB's items: reservations, members, times and embeddings, as its low-level API gives them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import numpy as np

from app.edge.members import Float32Array, Member, MemberTemplates

Item = Mapping[str, Mapping[str, Any]]
"""Attribute → its value: a type, "S", "N", "B", "L", …, and what it is."""

# Numbers from here on are milliseconds since 1970, below it seconds: the year 5138.
_MILLISECONDS: Final = 1e11
# Vectors that are decoded together.
_BLOCK: Final = 4_096


class Malformed(Exception):
    """One item cannot be used; `str` says why, without what stands in it."""


@dataclass(frozen=True, slots=True)
class ReservationTable:
    """The table of reservations, and how it is written.

    The index has to project all attributes named here. Its sort key is the check-out, so that who has left is never read.

    Attributes:
        table, index: their names.
        partition: the index's hash key, a string.
        partitions: the values of it that are read: the states of a reservation that let somebody in.
        check_in, check_out: ISO 8601, or seconds or milliseconds since 1970. A date alone is the whole day.
        written: how the index's sort key is written. Text has to begin with the date, as ISO 8601 does.
        time_zone: of times that do not say theirs.
        locks: the door locks that its members may open: a set or list of strings, or one string; may be missing.
    """

    table: str = "reservations"
    index: str = "status-checkOut-index"
    partition: str = "status"
    partitions: tuple[str, ...] = ("confirmed", "checked_in")
    code: str = "reservationCode"
    check_in: str = "checkIn"
    check_out: str = "checkOut"
    written: Literal["text", "seconds", "milliseconds"] = "text"
    time_zone: str = "UTC"
    locks: str = "locks"


@dataclass(frozen=True, slots=True)
class MemberTable:
    """The table of members: hash key `code`, sort key `number`.

    Attributes:
        embedding: bytes, float32 little-endian; or a list of numbers; or a list or set of these, one for each template.
        contract: `EmbeddingContract.id` of the embedding, where the table says it.
        locks: replaces the reservation's for this member, where there.
    """

    table: str = "members"
    code: str = "reservationCode"
    number: str = "memberNo"
    name: str = "name"
    embedding: str = "embedding"
    contract: str = "embeddingContract"
    locks: str = "locks"


@dataclass(frozen=True, slots=True)
class Reservation:
    """Who checks in when, in Unix seconds, and which locks they may open."""

    code: str
    valid_from: float
    valid_until: float
    locks: frozenset[str]


@dataclass(frozen=True, slots=True)
class RawMember:
    """A member whose vectors are not looked at yet: each float32, little-endian."""

    member: Member
    vectors: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Span:
    """The reservations that are asked for: those that end after `ends_after` and begin before `begins_before`.

    Wider than what is wanted, for text may be in any time zone, or a date alone. Nobody who is wanted is outside.
    """

    ends_after: dict[str, str]
    begins_before: dict[str, str]

    @classmethod
    def of(cls, table: ReservationTable, now: float, horizon_s: float) -> "Span":
        """As attribute values, in the way the table is written."""
        if table.written == "text":
            # At most 14 hours off by the time zone, and 24 where a date alone is the whole day.
            ends = datetime.fromtimestamp(now, UTC) - timedelta(hours=38)
            begins = datetime.fromtimestamp(now + horizon_s, UTC) + timedelta(hours=38)
            return cls({"S": ends.date().isoformat()}, {"S": begins.date().isoformat()})
        factor = 1 if table.written == "seconds" else 1_000
        return cls({"N": str(math.floor(now * factor))}, {"N": str(math.ceil((now + horizon_s) * factor))})


def read_reservation(item: Item, table: ReservationTable) -> Reservation:
    """
    Raises:
        Malformed: something is missing, or is not what it should be.
    """
    zone = ZoneInfo(table.time_zone)
    valid_from = _time(item.get(table.check_in), table.check_in, zone, ends=False)
    valid_until = _time(item.get(table.check_out), table.check_out, zone, ends=True)
    if valid_until <= valid_from:
        raise Malformed(f"{table.check_out} is not after {table.check_in}")
    return Reservation(_text(item, table.code), valid_from, valid_until, _locks(item, table.locks) or frozenset())


def read_member(item: Item, reservation: Reservation, table: MemberTable, contract: str, dimension: int) -> RawMember:
    """
    Raises:
        Malformed: something is missing, or is not what it should be; or the embedding is another model's.
    """
    number = _number(item.get(table.number), table.number)
    locks = _locks(item, table.locks)
    if table.contract in item and _text(item, table.contract) != contract:
        raise Malformed(f"{table.contract} is of another model")
    key = f"{reservation.code}-{number}"
    member = Member(
        key=key,
        name=_text(item, table.name) if table.name in item else key,
        valid_from=reservation.valid_from,
        valid_until=reservation.valid_until,
        locks=reservation.locks if locks is None else locks,
    )
    vectors = tuple(_vectors(item.get(table.embedding), table.embedding))
    if not vectors:
        raise Malformed(f"{table.embedding} is empty")
    if any(len(vector) != dimension * 4 for vector in vectors):
        raise Malformed(f"{table.embedding} is not of {dimension} numbers")
    return RawMember(member, vectors)


def decode(members: Sequence[RawMember], dimension: int) -> Iterator[MemberTemplates | RawMember]:
    """Members with their templates; as they were given, those whose vectors hold NaN or infinity, or are all zero."""
    for start in range(0, len(members), _BLOCK):
        block = members[start : start + _BLOCK]
        # Read-only, because bytes are: the gallery need not look at the same templates twice.
        rows: Float32Array = np.frombuffer(b"".join(vector for raw in block for vector in raw.vectors), dtype="<f4")
        rows = rows.reshape(-1, dimension)
        usable = np.logical_and(np.isfinite(rows).all(axis=1), rows.any(axis=1))
        begin = 0
        for raw in block:
            end = begin + len(raw.vectors)
            yield MemberTemplates(raw.member, rows[begin:end]) if usable[begin:end].all() else raw
            begin = end


def _time(value: Mapping[str, Any] | None, name: str, zone: tzinfo, *, ends: bool) -> float:
    """Unix seconds; of a date alone, where the day begins or ends."""
    try:
        match value:
            case {"N": str(digits)}:
                number = float(digits)
                seconds = number / 1_000 if abs(number) >= _MILLISECONDS else number
            case {"S": str(text)} if len(text) == len("2026-11-20"):
                day = date.fromisoformat(text) + timedelta(days=int(ends))
                seconds = datetime.combine(day, time(), zone).timestamp()
            case {"S": str(text)}:
                moment = datetime.fromisoformat(text)
                seconds = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
            case _:
                raise Malformed(f"{name} is missing or no time")
    except (ValueError, OverflowError):
        raise Malformed(f"{name} is no time") from None
    if not math.isfinite(seconds):
        raise Malformed(f"{name} is no time")
    return seconds


def _text(item: Item, name: str) -> str:
    text = item.get(name, {}).get("S")
    if not isinstance(text, str) or not text:
        raise Malformed(f"{name} is missing or no text")
    return text


def _number(value: Mapping[str, Any] | None, name: str) -> str:
    """A member's number: without a hyphen, so that two members never have one key."""
    match value:
        case {"N": str(text)} | {"S": str(text)} if text and "-" not in text:
            return text
    raise Malformed(f"{name} is missing, or has a hyphen")


def _locks(item: Item, name: str) -> frozenset[str] | None:
    match item.get(name):
        case None | {"NULL": True}:
            return None
        case {"S": str(lock)}:
            return frozenset({lock} - {""})
        case {"SS": list(texts)}:
            return frozenset(texts)
        case {"L": list(values)} if all(isinstance(value.get("S"), str) and value["S"] for value in values):
            return frozenset(value["S"] for value in values)
    raise Malformed(f"{name} is no list of texts")


def _vectors(value: Mapping[str, Any] | None, name: str) -> Iterator[bytes]:
    match value:
        case {"B": bytes(one)}:
            yield one
        case {"BS": list(several)}:
            yield from several
        case {"L": [{"N": _}, *_] as numbers}:
            yield _packed(numbers, name)
        case {"L": list(several)}:
            for one in several:
                yield _packed(one["L"], name) if "L" in one else _bytes(one, name)
        case _:
            raise Malformed(f"{name} is missing, or neither bytes nor numbers")


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    match value:
        case {"B": bytes(one)}:
            return one
    raise Malformed(f"{name} is neither bytes nor numbers")


def _packed(numbers: Sequence[Mapping[str, Any]], name: str) -> bytes:
    try:
        doubles = np.array([float(number["N"]) for number in numbers])
    except (KeyError, TypeError, ValueError):
        raise Malformed(f"{name} is neither bytes nor numbers") from None
    with np.errstate(over="ignore"):  # what becomes infinite is refused with the rest
        return doubles.astype("<f4").tobytes()
