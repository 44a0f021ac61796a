"""Events whose time is over are taken out of the beginning of their chain; what follows can still be verified."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import delete, or_, select, text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from app.audit.chain import record
from app.db.models import AuditChain, AuditEvent
from app.db.session import Database, as_owner
from app.tenancy import acting, everything

log = structlog.stdlib.get_logger("facedex.audit")

_ROWS_PER_TRANSACTION: Final = 5_000
# As if they were looked for from the beginning of the chain: an event that is young keeps all that follow it.
_FIRST_YOUNG_SQL: Final = """
SELECT seq FROM audit_events WHERE chain_id = :chain AND seq > :pruned_seq AND at >= :before ORDER BY seq LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done.

    Attributes:
        events: how many were taken out.
        more: whether there may be more to take out.
        broken: how many chains were left as they are, since an event of theirs is missing.
    """

    events: int = 0
    more: bool = False
    broken: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(self.events + other.events, self.more or other.more, self.broken + other.broken)


def prune_all(database: Database, *, retention_days: int, max_rounds: int | None = None, again: bool = False) -> Pruned:
    """Prune every chain; a broken one stops no other.

    Args:
        retention_days: events of the last so many days stay; 0 keeps all.
        max_rounds: of 5,000 events, for each chain; None goes on until nothing is left to do.
        again: also those that were pruned today.

    Raises:
        DatabaseError: what was done stays done.
    """
    if not retention_days:
        return Pruned()
    with acting(everything("audit")):
        with database.transaction() as session:
            due = select(AuditChain.id).order_by(AuditChain.id)
            if not again:
                due = due.where(or_(AuditChain.pruned_on.is_(None), AuditChain.pruned_on < datetime.now(UTC).date()))
            ids = session.scalars(due).all()
        return sum((_prune_unless_broken(database, chain_id, retention_days, max_rounds) for chain_id in ids), Pruned())


def _prune_unless_broken(database: Database, chain_id: int, retention_days: int, max_rounds: int | None) -> Pruned:
    try:
        return _prune(database, chain_id, retention_days, max_rounds)
    except NoResultFound:
        log.error("[AUDIT] A chain is not pruned: an event of it is missing. See flask audit verify", chain=chain_id)
        return Pruned(broken=1)


def _prune(database: Database, chain_id: int, retention_days: int, max_rounds: int | None) -> Pruned:
    before = datetime.now(UTC) - timedelta(days=retention_days)
    pruned, rounds, more = 0, 0, True
    while more and (max_rounds is None or rounds < max_rounds):
        with database.transaction() as session:
            taken, more = _prune_some(session, chain_id, before)
        pruned += taken
        rounds += 1
    return Pruned(pruned, more)


def _prune_some(session: Session, chain_id: int, before: datetime) -> tuple[int, bool]:
    """One transaction's worth: how many, and whether there may be more."""
    chain = session.get(AuditChain, chain_id, with_for_update=True)
    if chain is None:
        return 0, False
    values = {"chain": chain_id, "pruned_seq": chain.pruned_seq, "before": before}
    young: int | None = session.scalar(text(_FIRST_YOUNG_SQL), values)
    last_old = chain.head_seq if young is None else young - 1
    upto = min(last_old, chain.pruned_seq + _ROWS_PER_TRANSACTION)
    taken = upto - chain.pruned_seq
    if taken:
        _take_out(session, chain, upto)
    if upto == last_old:
        chain.pruned_on = datetime.now(UTC).date()
    session.flush()
    if taken:
        record(session, "audit.pruned", domain_id=chain.domain_id, events=taken, up_to=upto)
    return taken, upto < last_old


def _take_out(session: Session, chain: AuditChain, upto: int) -> None:
    last = session.get_one(AuditEvent, (chain.id, upto))
    chain.pruned_seq, chain.pruned_hash = upto, last.hash
    session.flush()
    session.expunge(last)
    with as_owner(session):  # nobody else may delete events
        session.execute(delete(AuditEvent).where(AuditEvent.chain_id == chain.id, AuditEvent.seq <= upto))
