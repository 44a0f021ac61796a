"""Chains and their events, read: page by page for the API, from end to end for verification and export."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from app.audit.event import timestamp
from app.audit.verify import Anchor, Link
from app.db.models import AuditChain, AuditEvent
from app.db.session import Database

_CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """A chain.

    Attributes:
        id: its number in the database.
        domain_id, domain: the domain's number and id; None for the installation.
        begin: the last event that was pruned.
        head: the last event.
    """

    id: int
    domain_id: int | None
    domain: str | None
    begin: Anchor
    head: Anchor


@contextmanager
def snapshot(database: Database) -> Generator[Session]:
    """A transaction that sees everything as it is at its beginning, while events are appended and pruned."""
    with database.bulk_transaction() as session:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield session


def chains(session: Session) -> list[ChainInfo]:
    """Every chain within reach, the installation's first."""
    rows = session.scalars(select(AuditChain).order_by(AuditChain.domain_id.nulls_first()))
    return [_info(chain) for chain in rows]


def chain_of(session: Session, domain_id: int | None) -> ChainInfo | None:
    """The chain of a domain, or of the installation; None where it has none."""
    wanted = AuditChain.domain_id.is_(None) if domain_id is None else AuditChain.domain_id == domain_id
    chain = session.scalars(select(AuditChain).where(wanted)).one_or_none()
    return None if chain is None else _info(chain)


def links(session: Session, chain: ChainInfo, first: int = 0, last: int | None = None) -> Iterator[Link]:
    """Its events by number, from `first` to `last`; few are held in memory at a time."""
    query = (
        select(AuditEvent.seq, AuditEvent.body, AuditEvent.hash, AuditEvent.at, AuditEvent.domain_id)
        .where(AuditEvent.chain_id == chain.id)
        .order_by(AuditEvent.seq)
        .limit(_CHUNK)
    )
    if last is not None:
        query = query.where(AuditEvent.seq <= last)
    while rows := session.execute(query.where(AuditEvent.seq >= first)).all():
        for row in rows:
            consistent = row.domain_id == chain.domain_id and f'"at":"{timestamp(row.at)}"' in row.body
            yield Link(row.seq, row.body, bytes(row.hash), consistent)
        first = rows[-1].seq + 1


def span(session: Session, chain: ChainInfo, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """The numbers of the first and the last event between two moments; (1, 0) where there is none."""
    query = select(func.min(AuditEvent.seq), func.max(AuditEvent.seq)).where(AuditEvent.chain_id == chain.id)
    if since is not None:
        query = query.where(AuditEvent.at >= since)
    if until is not None:
        query = query.where(AuditEvent.at < until)
    first, last = session.execute(query).one()
    return (1, 0) if first is None else (first, last)


def before(session: Session, chain: ChainInfo, seq: int) -> Anchor:
    """What stands before an event of the chain."""
    if seq - 1 <= chain.begin.seq:
        return chain.begin
    hash_ = session.scalar(select(AuditEvent.hash).where(AuditEvent.chain_id == chain.id, AuditEvent.seq == seq - 1))
    return Anchor(seq - 1, bytes(hash_ or b""))


def page(
    session: Session, domain_id: int, *, limit: int, below: int | None, action: str | None, person: UUID | None
) -> list[Row[Any]]:
    """A domain's events, the latest first, as rows of seq, body and hash.

    Args:
        below: only events with a smaller number.
        action: only events with this action.
        person: only events about this person.
    """
    query = (
        select(AuditEvent.seq, AuditEvent.body, AuditEvent.hash)
        .join(AuditChain, AuditChain.id == AuditEvent.chain_id)
        .where(AuditChain.domain_id == domain_id)
        .order_by(AuditEvent.seq.desc())
        .limit(limit)
    )
    if below is not None:
        query = query.where(AuditEvent.seq < below)
    if action is not None:  # members are sorted by name: it is the first
        query = query.where(AuditEvent.body.startswith(f'{{"action":"{action}",', autoescape=True))
    if person is not None:  # likewise: they stand between the domain and the request's id
        query = query.where(AuditEvent.body.like(f'%"persons":[%"{person}"%],"request\\_id":%'))
    return list(session.execute(query))


def _info(chain: AuditChain) -> ChainInfo:
    return ChainInfo(
        id=chain.id,
        domain_id=chain.domain_id,
        domain=None if chain.domain_uid is None else str(chain.domain_uid),
        begin=Anchor(chain.pruned_seq, bytes(chain.pruned_hash)),
        head=Anchor(chain.head_seq, bytes(chain.head_hash)),
    )
