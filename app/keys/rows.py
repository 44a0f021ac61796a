"""Keys in the database: found, ended, and their events."""

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app import audit
from app.db.models import ApiKey, Domain
from app.db.unit import enter
from app.errors import KeyNotFound, TooManyKeys
from app.keys.secrets import is_prefix
from app.names import as_uuid
from app.tenancy import current_reach, everything

MAX_KEYS: Final = 10_000
MAX_KEYS_OF_A_DOMAIN: Final = 1_000
_COUNT_SQL: Final = """
WITH usable AS (SELECT domains FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())),
each AS (SELECT count(*) AS keys FROM usable, unnest(domains) AS domain WHERE domain = ANY (:domains) GROUP BY domain)
SELECT coalesce((SELECT max(keys) FROM each), 0), (SELECT count(*) FROM usable)
"""


def find_key(session: Session, which: str) -> ApiKey:
    """The key with that id or prefix, locked until the transaction ends.

    Raises:
        KeyNotFound: there is none within reach.
    """
    uid = as_uuid(which)
    same = ApiKey.id == uid if uid is not None else (ApiKey.prefix == which) | (ApiKey.previous_prefix == which)
    known = uid is not None or is_prefix(which)
    found = session.scalars(select(ApiKey).where(same).with_for_update()).first() if known else None
    if found is None:
        raise KeyNotFound(f"There is no API key {which!r}.")
    return found


def end_key(session: Session, key: ApiKey, at: datetime, *, revoked_by: str | None = None) -> None:
    """Revoke it, unless that was done before.

    Args:
        revoked_by: who did, where that was not whoever acts now: the database was away then.
    """
    if key.revoked_at is None:
        key.revoked_at = at
        session.flush()
        record_event(session, "key.revoked", key, revoked_by=revoked_by)


def end_known_key(session: Session, key_id: str, at: datetime, revoked_by: str) -> None:
    """As `end_key`, for a key that was revoked while this database was away; it may be gone."""
    key = session.scalars(select(ApiKey).where(ApiKey.id == UUID(key_id)).with_for_update()).first()
    if key is not None:
        end_key(session, key, at, revoked_by=revoked_by)


def require_room(session: Session, domains: Collection[str]) -> None:
    """Refuse one more key where there are enough: each is asked for, and written into the snapshot, at every tenant's cost.

    Keys that are made at the same moment may be some too many.

    Args:
        domains: names of those that the new key is for; none where it is for every one.

    Raises:
        TooManyKeys: there are.
    """
    reach = current_reach()
    enter(session, everything(reach.client), {})  # others' keys count too
    most, total = session.execute(text(_COUNT_SQL), {"domains": list(domains)}).one()
    enter(session, reach, {})
    if most >= MAX_KEYS_OF_A_DOMAIN:
        raise TooManyKeys(f"A domain has at most {MAX_KEYS_OF_A_DOMAIN} keys: revoke those that are not used.")
    if total >= MAX_KEYS:
        raise TooManyKeys(f"There are at most {MAX_KEYS} keys: revoke those that are not used.")


def record_event(session: Session, action: str, key: ApiKey, *, revoked_by: str | None = None) -> None:
    """An event in the chain of each of the key's domains, or in the installation's where it has none of its own."""
    named = select(Domain.id).where(Domain.name.in_(key.domains)).order_by(Domain.id)
    ids: list[int | None] = list(session.scalars(named))
    for domain_id in ids or [None]:
        audit.record(
            session,
            action,
            domain_id=domain_id,
            key_id=str(key.id),
            prefix=key.prefix,
            scopes=",".join(key.scopes),
            revoked_by=revoked_by,
        )
