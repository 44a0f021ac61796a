"""The note of an erasure: what it says, and the receipt that it becomes."""

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.db.erasures import erased_for
from app.db.idempotency import Claim
from app.db.models import Erasure
from app.erasure.places import Subject
from app.erasure.receipt import IN_AUDIT, IN_BACKUPS, IN_DATABASE_FILES, Receipt, Remnant


def subject_of(note: Erasure, others: Collection[str] = ()) -> Subject:
    """Who is erased, without the labels that are others' now."""
    assert note.domain_uid is not None
    labels = tuple(label for label in note.labels if label not in others)
    return Subject(note.domain_name, note.domain_uid, note.person_id, labels, tuple(note.former_ids))


def receipt_of(
    note: Erasure, counts: dict[str, int], failed: Sequence[Remnant], remains: Sequence[Remnant] = ()
) -> Receipt:
    """The receipt, after `failed` could not be seen to; `remains` is beside what always remains."""
    return Receipt(
        id=note.id,
        domain=note.domain_name,
        person_id=note.person_id,
        erased_at=note.erased_at,
        requested_by=note.requested_by,
        request_id=note.request_id,
        counts=counts,
        unfinished=tuple(failed),
        remains=(*remains, IN_DATABASE_FILES, IN_BACKUPS, IN_AUDIT),
    )


def begun_before(session: Session, claim: Claim | None) -> Erasure | None:
    """The erasure of a request that is sent again; None where it is new, or has no key."""
    return None if claim is None else erased_for(session, claim, claim_digest(claim))


def claim_digest(claim: Claim) -> bytes:
    """By which a note is found again."""
    return hashlib.sha256(claim.key.encode() + claim.fingerprint).digest()


def details_of(note: Erasure) -> dict[str, Any]:
    """What the audit keeps of a receipt."""
    return {"receipt": str(note.id)} | {f"deleted_{place}": count for place, count in note.counts.items()}


def request_id() -> str | None:
    """Of the request in work; None where there is none."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return None if found is None else str(found)
