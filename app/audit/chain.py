"""Events appended to the chain of their domain, or of the installation.

A hash is the SHA-256 of the hash before it and of the event's text, to the byte: whoever changes, drops or inserts an event has
to rewrite all that follow, and the head that others have noted.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.audit.event import MAX_DETAIL_CHARS, Detail, Event, event_now
from app.db.session import Database, fetch_raw
from app.errors import DomainNotFound

# The chain's row is locked from here until the transaction ends; the domain's own lock, where it is taken, comes before it.
# What depends on the chain's head is computed here, behind that lock, in one round trip.
_APPEND_SQL: Final = """
WITH head AS (
    UPDATE audit_chains SET
        head_seq = head_seq + 1,
        head_hash = sha256(head_hash || convert_to(
            CAST(%(head)s AS text) || coalesce('"' || domain_uid || '"', 'null') || CAST(%(tail)s AS text)
                || (head_seq + 1) || '}}',
            'UTF8'
        ))
    WHERE {chain}
    RETURNING id, domain_id, domain_uid, head_seq, head_hash
), added AS (
    INSERT INTO audit_events (chain_id, seq, domain_id, at, body, hash)
    SELECT id, head_seq, domain_id, %(at)s,
        CAST(%(head)s AS text) || coalesce('"' || domain_uid || '"', 'null') || CAST(%(tail)s AS text) || head_seq || '}}',
        head_hash
    FROM head
)
SELECT head_seq, head_hash FROM head
"""
_CHAIN_OF_NAME: Final = "domain_id = (SELECT id FROM domains WHERE name = %(domain)s)"
_BEGIN_SQL: Final = """
INSERT INTO audit_chains (head_hash, pruned_hash) VALUES (decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'))
ON CONFLICT (domain_id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an event stands: its number and hash."""

    seq: int
    hash: bytes


def record(
    session: Session, action: str, *, domain_id: int | None, persons: Sequence[UUID] = (), **details: Detail
) -> None:
    """Append an event to the domain's chain in the transaction of the change; None is the installation's chain.

    Call it as late in the transaction as possible: the chain is locked until its end, and its lock is the last to be taken.

    Args:
        action: as `Event.action`.
        domain_id: whose event it is; the installation's is appended whatever is within reach.
        persons: ids of those whom it is about.
        details: scalars; no names of persons, no pictures, no vectors. Texts are cut to 200 characters.

    Raises:
        DomainNotFound: the domain is not within reach.
        ValueError, TypeError: as `event_now`.
    """
    append(session, event_now(action, persons, details), domain_id)


def record_domain(session: Session, action: str, domain_id: int, uid: UUID, **details: Detail) -> None:
    """As `record`, that a domain was made or deleted; told in the installation's chain too, so that a lost chain is missed.

    Making and dropping partitions takes locks that all domains share: call it after that.
    """
    record(session, action, domain_id=domain_id, persons=(), **details)
    record(session, action, domain_id=None, persons=(), id=str(uid), **details)


def append(session: Session, event: Event, domain_id: int | None) -> Appended:
    """As `record`, for an event that is there already."""
    if domain_id is None:
        return _append_to_installation(session, event)
    appended = _append(session, event, "domain_id = %(domain_id)s", domain_id=domain_id)
    if appended is None:
        raise DomainNotFound("There is no such domain.")
    return appended


def append_named(session: Session, event: Event, domain: str | None) -> Appended:
    """As `append`, to the chain of the domain of that name; one that is only a dataset has none: the installation's, then."""
    if domain is None:
        return _append_to_installation(session, event)
    appended = _append(session, event, _CHAIN_OF_NAME, domain=domain)
    return appended or _append_to_installation(session, without_chain(event, domain))


def append_alone(database: Database, event: Event, domain: str | None, timeout_s: float | None = None) -> None:
    """As `append_named`, in a transaction of its own: to a domain's chain in one round trip.

    Raises:
        DatabaseError: as `Database.transaction`; the event is not stored.
    """
    if domain is not None and database.ask(_append_sql(_CHAIN_OF_NAME), _values(event) | {"domain": domain}, timeout_s):
        return
    with database.transaction(timeout_s) as session:
        append_named(session, event, domain)


def without_chain(event: Event, domain: str) -> Event:
    """The event of a domain that is not in the database, as it stands in the installation's chain."""
    return replace(event, details={**event.details, "dataset": domain[:MAX_DETAIL_CHARS]})


def _append_to_installation(session: Session, event: Event) -> Appended:
    with _whole_reach(session):
        appended = _append(session, event, "domain_id IS NULL")
        if appended is None:  # the first event of all
            session.execute(text(_BEGIN_SQL))
            appended = _append(session, event, "domain_id IS NULL")
    assert appended is not None
    return appended


def _append(session: Session, event: Event, chain: str, **which: Any) -> Appended | None:
    rows = fetch_raw(session, _append_sql(chain), _values(event) | which)
    return Appended(*rows[0]) if rows else None


def _append_sql(chain: str) -> str:
    return _APPEND_SQL.format(chain=chain)


def _values(event: Event) -> dict[str, Any]:
    return {"head": event.head, "tail": event.tail, "at": event.at}


@contextmanager
def _whole_reach(session: Session) -> Generator[None]:
    """Everything within this transaction's reach in the block: a tenant's key leaves events in the installation's chain too."""
    # PostgreSQL computes a select list from left to right.
    query = "SELECT current_setting('facedex.domains', true), set_config('facedex.domains', '*', true)"
    before = session.execute(text(query)).one()[0]
    yield
    # Where the block raised, the transaction is over, or goes back to where the reach was narrow.
    session.execute(text("SELECT set_config('facedex.domains', :before, true)"), {"before": before})
