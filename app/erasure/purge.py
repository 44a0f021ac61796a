"""Receipts that hold for the database's files too."""

from dataclasses import replace

from app.db.domains import find_domain
from app.db.remnants import Progress, purge
from app.db.session import Database
from app.erasure.receipt import IN_DATABASE_FILES, Receipt, Remnant
from app.errors import DomainNotFound


def purge_files(database: Database, domain: str | None, progress: Progress) -> tuple[Remnant, ...]:
    """Rewrite what held deleted rows of a domain, or with None of all. Returns what could not be rewritten.

    Raises:
        DomainNotFound: no such domain.
        DatabaseError: as `app.db.remnants.purge`.
    """
    domain_id = None
    if domain is not None:
        with database.transaction() as session:
            domain_id = find_domain(session, domain).id
    return tuple(Remnant(place, why) for place, why in purge(database, domain_id, progress))


def purged(receipt: Receipt, database: Database, progress: Progress) -> Receipt:
    """The receipt of an erasure, once the files have been rewritten as well.

    Raises:
        DatabaseError: as `app.db.remnants.purge`.
    """
    if IN_DATABASE_FILES not in receipt.remains:
        return receipt
    try:
        left = purge_files(database, receipt.domain, progress)
    except DomainNotFound:  # it was erased as a whole
        left = purge_files(database, None, progress)
    others = tuple(remnant for remnant in receipt.remains if remnant != IN_DATABASE_FILES)
    return replace(receipt, remains=left + others)
