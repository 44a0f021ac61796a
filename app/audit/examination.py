"""Chains of the database verified, and those missed that are gone altogether."""

import json
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit.reading import ChainInfo, links
from app.audit.verify import Anchor, Break, Link, find_break
from app.db.models import AuditChain, Domain

_CREATED = '{"action":"domain.created",'


def examine(
    session: Session, chain: ChainInfo, noted: Anchor | None = None, told: set[str] | None = None
) -> Break | None:
    """The first fault of a chain, None where it is whole; in constant memory, within `app.audit.reading.snapshot`.

    Args:
        noted: as of `find_break`.
        told: takes the ids of the domains that the events tell the making of.
    """
    found = _listened(links(session, chain), told if told is not None else set())
    return find_break(found, begin=chain.begin, head=chain.head, domain=chain.domain, noted=noted)


def missing_chains(session: Session, told: set[str]) -> list[str]:
    """The ids of domains without a chain: of those in the database, and of those that were told of."""
    chained = select(AuditChain.domain_uid).where(AuditChain.domain_id.is_not(None))
    there = {str(uid) for uid in session.scalars(chained)}
    return sorted((told | {str(uid) for uid in session.scalars(select(Domain.uid))}) - there)


def _listened(found: Iterator[Link], told: set[str]) -> Iterator[Link]:
    for link in found:
        if link.body.startswith(_CREATED):
            _add_created(link.body, told)
        yield link


def _add_created(body: str, told: set[str]) -> None:
    try:
        event = json.loads(body)
        told.add(event["domain"] or event["details"]["id"])
    except (ValueError, LookupError, TypeError):
        return  # changed: verification says so itself
