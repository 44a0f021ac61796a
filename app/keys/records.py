"""A key as authentication needs it, read from the database or from the snapshot."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.keys.principal import Principal, Scope
from app.keys.secrets import Secret, is_text_of
from app.tenancy import Reach

_COLUMNS: Final = (
    "SELECT k.id, k.name, k.prefix, k.digest, k.previous_prefix, k.previous_digest, k.previous_until, k.scopes,"
    " k.every_domain, k.domains, ARRAY(SELECT d.id FROM domains AS d WHERE d.name = ANY (k.domains)) AS domain_ids,"
    " k.rate_per_minute, k.expires_at, k.revoked_at FROM api_keys AS k "
)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key with its one secret, or, for some time after a rotation, two.

    Attributes:
        id: its id, as text.
        domains, domain_ids: names, and the numbers of those of them that are in the database.
        revoked: whether it was revoked.
    """

    id: str
    name: str
    secrets: tuple[Secret, ...]
    scopes: frozenset[Scope]
    every_domain: bool
    domains: frozenset[str]
    domain_ids: frozenset[int]
    rate_per_minute: int | None
    expires_at: datetime | None
    revoked: bool = False

    def secret(self, prefix: str) -> Secret | None:
        """The secret with that prefix."""
        return next((secret for secret in self.secrets if secret.prefix == prefix), None)

    @property
    def principal(self) -> Principal:
        """Who calls with it."""
        return Principal(
            id=self.id,
            scopes=self.scopes,
            reach=Reach(self.id, self.domains, self.domain_ids, self.every_domain),
            rate_per_minute=self.rate_per_minute,
            expires_at=self.expires_at,
        )


def why_refused(record: KeyRecord | None, given: str, prefix: str, now: datetime) -> str | None:
    """What is wrong with a key's text, for the log; None where it is good. The text is compared first, and always."""
    secret = record.secret(prefix) if record else None
    if not is_text_of(given, secret) or record is None or secret is None:
        return "unknown"
    if record.revoked:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= now:
        return "expired"
    if secret.until is not None and secret.until <= now:
        return "replaced"
    return None


def find_record(session: Session, prefix: str) -> KeyRecord | None:
    """The key with that prefix, revoked and expired ones too; in one round trip."""
    query = text(_COLUMNS + "WHERE k.prefix = :prefix OR k.previous_prefix = :prefix LIMIT 1")
    row = session.execute(query, {"prefix": prefix}).one_or_none()
    return None if row is None else _record(row)


def usable_records(session: Session) -> list[KeyRecord]:
    """All keys that are neither revoked nor expired."""
    query = text(
        _COLUMNS + "WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) ORDER BY k.id"
    )
    return [_record(row) for row in session.execute(query)]


def _record(row: Row[Any]) -> KeyRecord:
    secrets = [Secret(row.prefix, bytes(row.digest))]
    if row.previous_prefix is not None:
        secrets.append(Secret(row.previous_prefix, bytes(row.previous_digest), row.previous_until))
    known = set(Scope)
    return KeyRecord(
        id=str(row.id),
        name=row.name,
        secrets=tuple(secrets),
        scopes=frozenset(Scope(scope) for scope in row.scopes if scope in known),
        every_domain=row.every_domain,
        domains=frozenset(row.domains),
        domain_ids=frozenset(row.domain_ids),
        rate_per_minute=row.rate_per_minute,
        expires_at=row.expires_at,
        revoked=row.revoked_at is not None,
    )
