"""Idempotency keys: which requests were made, what was answered, and what a long one has stored so far."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.errors import IdempotencyKeyReused
from app.names import as_uuid

# The row of somebody who is at work with the same key is waited for, until they commit or give up.
_CLAIM_SQL: Final = """
INSERT INTO idempotent_requests (client, key, fingerprint) VALUES (:client, :key, :fingerprint)
ON CONFLICT (client, key) DO NOTHING RETURNING true
"""
_FREE_SQL: Final = """
DELETE FROM idempotent_requests WHERE client = :client AND key = :key AND created_at < now() - :keep
"""
_FIND_SQL: Final = """
SELECT fingerprint, status, headers, body, now() - created_at FROM idempotent_requests WHERE client = :client AND key = :key
"""
# A domain that is being deleted at this moment is waited for, and then is none.
_KEEP_SQL: Final = """
UPDATE idempotent_requests SET status = :status, headers = CAST(:headers AS jsonb), body = :body, domain_id = coalesce(
    domain_id, (SELECT id FROM domains WHERE name = :domain OR uid = :uid ORDER BY (name = :domain) DESC LIMIT 1 FOR KEY SHARE)
)
WHERE client = :client AND key = :key AND status IS NULL
"""
_SWEEP_SQL: Final = """
DELETE FROM idempotent_requests WHERE (client, key) IN (
    SELECT client, key FROM idempotent_requests WHERE created_at < now() - :keep
    ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
) RETURNING true
"""
_CLAIM_TRIES: Final = 3
_FACE_SQL: Final = """
SELECT face_id FROM idempotent_faces WHERE client = :client AND key = :key AND image_sha256 = :image_sha256
"""
_KEEP_FACE_SQL: Final = """
INSERT INTO idempotent_faces (client, key, image_sha256, domain_id, face_id)
VALUES (:client, :key, :image_sha256, :domain_id, :face_id)
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that is to be done once.

    Attributes:
        client: who sent it; each client has keys of its own.
        key: what the client named it.
        fingerprint: SHA-256 of the request.
    """

    client: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def claim(session: Session, wanted: Claim, *, keep_s: float) -> KeptAnswer | None:
    """Claim the request for this transaction; whoever claims it at the same time waits for this one's end.

    Args:
        keep_s: for how long answers are kept.

    Returns:
        what it was answered before; None where it has to be done: never seen, or broken off.

    Raises:
        IdempotencyKeyReused: the key stands for another request.
    """
    for _ in range(_CLAIM_TRIES):
        if session.scalar(text(_CLAIM_SQL), _columns(wanted)) is not None:
            return None
        row = _find(session, wanted)
        if row is not None and not row.expired(keep_s):
            return _kept(row, wanted)
        # Expired, swept up meanwhile, or about a domain that this client sees no more: then it stays.
        session.execute(text(_FREE_SQL), _columns(wanted) | {"keep": timedelta(seconds=keep_s)})
    raise IdempotencyKeyReused("This idempotency key was used for another request.")


def find(session: Session, wanted: Claim, *, keep_s: float) -> KeptAnswer | None:
    """What the request was answered before, without claiming it.

    Raises:
        IdempotencyKeyReused: the key stands for another request.
    """
    row = _find(session, wanted)
    return None if row is None or row.expired(keep_s) else _kept(row, wanted)


def keep(session: Session, done: Claim, answer: KeptAnswer, *, domain: str | None) -> None:
    """Keep the answer of a claimed request; where there is one, it stays.

    Args:
        domain: the name or id of the domain that it is about: the answer goes when the domain does.
    """
    values = {
        "status": answer.status,
        "headers": json.dumps(dict(answer.headers)),
        "body": answer.body,
        "domain": domain,
        "uid": None if domain is None else as_uuid(domain),
    }
    session.execute(text(_KEEP_SQL), _columns(done) | values)


def face_of(session: Session, claimed: Claim, image_sha256: bytes) -> UUID | None:
    """The template that a picture of this request became; None where it has become none yet."""
    found: UUID | None = session.scalar(text(_FACE_SQL), _columns(claimed) | {"image_sha256": image_sha256})
    return found


def keep_face(session: Session, claimed: Claim, image_sha256: bytes, domain_id: int, face_id: UUID) -> None:
    """Note which template a picture became, in the transaction that stores it, under the domain's lock."""
    values = {"image_sha256": image_sha256, "domain_id": domain_id, "face_id": face_id}
    session.execute(text(_KEEP_FACE_SQL), _columns(claimed) | values)


def sweep(session: Session, *, keep_s: float, limit: int) -> int:
    """Remove requests that are older than they are kept, of all clients within reach; at most `limit`. Returns how many."""
    values = {"keep": timedelta(seconds=keep_s), "limit": limit}
    return len(session.execute(text(_SWEEP_SQL), values).all())


@dataclass(frozen=True, slots=True)
class _Row:
    fingerprint: bytes
    status: int | None
    headers: dict[str, str] | None
    body: bytes | None
    age: timedelta

    def expired(self, keep_s: float) -> bool:
        return self.age > timedelta(seconds=keep_s)


def _find(session: Session, wanted: Claim) -> _Row | None:
    row = session.execute(text(_FIND_SQL), _columns(wanted)).one_or_none()
    return None if row is None else _Row(*row)


def _kept(row: _Row, wanted: Claim) -> KeptAnswer | None:
    if bytes(row.fingerprint) != wanted.fingerprint:
        raise IdempotencyKeyReused("This idempotency key was used for another request.")
    return None if row.status is None else KeptAnswer(row.status, row.headers or {}, bytes(row.body or b""))


def _columns(wanted: Claim) -> dict[str, Any]:
    return {"client": wanted.client, "key": wanted.key, "fingerprint": wanted.fingerprint}
