"""One event, and the JSON text that its hash is of. Pure.

The text is canonical: members sorted by name, ASCII only, no spaces. `seq` sorts last and `domain` in the middle; the
database fills these two in (`app/audit/chain.py`), since only it knows them when the event's turn has come.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from app.tenancy import current_reach

Detail = str | int | float | bool | None
"""What may be said of an event: scalars. No names of persons, no pictures, no vectors."""

ZERO_HASH: Final = bytes(32)
"""What stands before the first event of a chain."""

MAX_DETAIL_CHARS: Final = 200
_MAX_DETAILS: Final = 32
_MAX_PERSONS: Final = 1_000
_ACTION: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what, when, to whom.

    Attributes:
        action: `person.created`, `face.enrolled`: a noun and what became of it.
        at: when, in UTC.
        client: who: the id of a key, `admin`, `cli`.
        request_id: of the request, as the logs have it; None where there was none.
        persons: ids of those whom it is about.
        details: scalars; long texts are cut.
    """

    action: str
    at: datetime
    client: str
    request_id: str | None
    persons: Sequence[str] = ()
    details: Mapping[str, Detail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _ACTION.fullmatch(self.action):
            raise ValueError(f"{self.action!r} is no name of an action.")
        if len(self.persons) > _MAX_PERSONS or len(self.details) > _MAX_DETAILS:
            raise ValueError("An event is about fewer persons, and has fewer details.")

    @property
    def head(self) -> str:
        """The text up to the domain."""
        known = {"action": self.action, "at": timestamp(self.at), "client": self.client, "details": self.details}
        return canonical_json(known)[:-1] + ',"domain":'

    @property
    def tail(self) -> str:
        """The text between the domain and `seq`, which ends it."""
        return "," + canonical_json({"persons": list(self.persons), "request_id": self.request_id})[1:-1] + ',"seq":'


def event_now(action: str, persons: Sequence[UUID], details: Mapping[str, Detail]) -> Event:
    """An event of this moment, by whoever acts, in whatever request.

    Raises:
        ValueError, TypeError: the caller's mistake: no such name can be an action's, or a detail is no scalar.
    """
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return Event(
        action=action,
        at=datetime.now(UTC),
        client=current_reach().client,
        request_id=None if request_id is None else str(request_id),
        persons=tuple(str(person) for person in persons),
        details={name: _bounded(name, value) for name, value in details.items()},
    )


def canonical_json(value: object) -> str:
    """Sorted, ASCII, without spaces: one text for one value.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


def timestamp(at: datetime) -> str:
    """In UTC, always with microseconds: `2026-01-31T12:00:00.000000Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _bounded(name: str, value: Detail) -> Detail:
    if isinstance(value, str):
        return str(value)[:MAX_DETAIL_CHARS]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"The detail {name!r} of an event is no scalar.")
