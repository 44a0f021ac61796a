"""The keys as the database had them last, signed and dated: what is gone by while it is away. Pure.

The text is a line with the HMAC-SHA256 of the next, a line of JSON with the age, the revocations and the SHA-256 of the rest,
and the keys as JSON: while the database answers, nobody needs to read those.
"""

import hashlib
import hmac
import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.keys.principal import Scope
from app.keys.records import KeyRecord
from app.keys.secrets import Secret

_FORMAT: Final = 2
# Clocks are set right by fractions of a second; a snapshot from further ahead is one that a clock was set back for.
_AHEAD_S: Final = 60.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class InvalidSnapshot(ValueError):
    """The text is no snapshot, or was signed with another key."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was, by the clock, which can be set back, and by the machine's, which counts from its start.

    Attributes:
        at_s: seconds since 1970.
        up_s: seconds since the machine started, sleep included.
        boot_id: of that start.
    """

    at_s: float
    up_s: float
    boot_id: str

    @classmethod
    def now(cls) -> "Moment":
        """This moment."""
        try:
            boot_id = _BOOT_ID.read_text("ascii").strip()
        except OSError:
            boot_id = ""
        return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)

    def age_s(self, now: "Moment") -> float:
        """How long ago it was, by whichever clock says longer; negative where it is still to come."""
        by_clock = now.at_s - self.at_s
        if self.boot_id and self.boot_id == now.boot_id:
            return max(by_clock, now.up_s - self.up_s)
        return by_clock


@dataclass(frozen=True, slots=True)
class Revocation:
    """A key that was revoked while the database could not be told."""

    key_id: str
    at: datetime
    by: str


@dataclass(frozen=True)
class Head:
    """What a snapshot says beside its keys.

    Attributes:
        taken, revoked: as of `Snapshot`.
        keys_sha256: of the text with the keys.
    """

    taken: Moment
    revoked: tuple[Revocation, ...]
    keys_sha256: str

    @cached_property
    def _revoked_ids(self) -> frozenset[str]:
        return frozenset(entry.key_id for entry in self.revoked)

    def is_revoked(self, key_id: str) -> bool:
        """Whether it was revoked without the database's knowing."""
        return key_id in self._revoked_ids


@dataclass(frozen=True)
class Snapshot:
    """The keys that could be used when it was taken, and those revoked since.

    Attributes:
        taken: when the database was asked, or the operator vouched for it anew.
        revoked: not known to the database yet.
    """

    taken: Moment
    keys: tuple[KeyRecord, ...]
    revoked: tuple[Revocation, ...] = ()

    @cached_property
    def _by_prefix(self) -> dict[str, KeyRecord]:
        return {secret.prefix: key for key in self.keys for secret in key.secrets}

    def find(self, prefix: str) -> KeyRecord | None:
        """The key with that prefix."""
        return self._by_prefix.get(prefix)

    def is_fresh(self, now: Moment, max_age_s: float) -> bool:
        """Whether it may still be gone by."""
        return -_AHEAD_S <= self.taken.age_s(now) <= max_age_s

    def without(self, key_id: str, at: datetime, by: str) -> "Snapshot":
        """The same, with that key revoked; as old as before."""
        keys = tuple(key for key in self.keys if key.id != key_id)
        return replace(self, keys=keys, revoked=(*self.revoked, Revocation(key_id, at, by)))

    def dropping(self, key_id: str) -> "Snapshot":
        """The same without that key, of which the database knows more."""
        return replace(self, keys=tuple(key for key in self.keys if key.id != key_id))


def write_snapshot(snapshot: Snapshot, signing_key: bytes) -> bytes:
    """Its text, signed."""
    keys = json.dumps([_key_to_json(key) for key in snapshot.keys], ensure_ascii=True).encode()
    told = {
        "format": _FORMAT,
        "taken": [snapshot.taken.at_s, snapshot.taken.up_s, snapshot.taken.boot_id],
        "revoked": [[entry.key_id, entry.at.isoformat(), entry.by] for entry in snapshot.revoked],
        "keys_sha256": hashlib.sha256(keys).hexdigest(),
    }
    head = json.dumps(told, ensure_ascii=True).encode()
    return b"\n".join((_signature(head, signing_key), head, keys))


def read_head(lines: BinaryIO, signing_key: bytes) -> Head:
    """The beginning of a snapshot; leaves the text of the keys to be read.

    Raises:
        InvalidSnapshot: it was not signed with this key, or is none.
    """
    signature, head = (lines.readline().rstrip(b"\n") for _ in range(2))
    if not hmac.compare_digest(signature, _signature(head, signing_key)):
        raise InvalidSnapshot("The snapshot of the keys is not signed with this installation's key.")
    try:
        told = json.loads(head)
        if told["format"] != _FORMAT:
            raise InvalidSnapshot("The snapshot of the keys is another version's.")
        revoked = (Revocation(key_id, datetime.fromisoformat(at), by) for key_id, at, by in told["revoked"])
        return Head(Moment(*told["taken"]), tuple(revoked), told["keys_sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidSnapshot("The snapshot of the keys cannot be read.") from error


def read_snapshot(lines: BinaryIO, signing_key: bytes) -> Snapshot:
    """A whole snapshot.

    Raises:
        InvalidSnapshot: as `read_head`, or the keys are not those that were signed.
    """
    head, text = read_head(lines, signing_key), lines.read()
    if hashlib.sha256(text).hexdigest() != head.keys_sha256:
        raise InvalidSnapshot("The snapshot of the keys is not signed with this installation's key.")
    try:
        return Snapshot(head.taken, tuple(map(_key_from_json, json.loads(text))), head.revoked)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidSnapshot("The snapshot of the keys cannot be read.") from error


def shown_age(age_s: float) -> str:
    """`1 day, 2:03:04`, to the second."""
    return str(timedelta(seconds=round(max(0.0, age_s))))


def _signature(body: bytes, signing_key: bytes) -> bytes:
    return hmac.new(signing_key, body, hashlib.sha256).hexdigest().encode()


def _key_to_json(key: KeyRecord) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "secrets": [[each.prefix, each.digest.hex(), _time_to_json(each.until)] for each in key.secrets],
        "scopes": sorted(key.scopes),
        "every_domain": key.every_domain,
        "domains": sorted(key.domains),
        "domain_ids": sorted(key.domain_ids),
        "rate_per_minute": key.rate_per_minute,
        "expires_at": _time_to_json(key.expires_at),
    }


def _key_from_json(told: dict[str, Any]) -> KeyRecord:
    return KeyRecord(
        id=told["id"],
        name=told["name"],
        secrets=tuple(
            Secret(prefix, bytes.fromhex(digest), _time_from_json(until)) for prefix, digest, until in told["secrets"]
        ),
        scopes=frozenset(map(Scope, told["scopes"])),
        every_domain=told["every_domain"],
        domains=frozenset(told["domains"]),
        domain_ids=frozenset(told["domain_ids"]),
        rate_per_minute=told["rate_per_minute"],
        expires_at=_time_from_json(told["expires_at"]),
    )


def _time_to_json(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _time_from_json(told: str | None) -> datetime | None:
    return None if told is None else datetime.fromisoformat(told)
