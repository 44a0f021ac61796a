"""What looks through a domain's persons, page by page, has in common: whose turn it is, and what they are called."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.domains import Gallery
from app.db.models import Person
from app.db.neighbours import persons_after
from app.enrolment.lookup import PersonRef
from app.errors import InvalidRequest
from app.names import as_uuid
from app.pages import decode_cursor, encode_cursor


def next_persons(
    session: Session, gallery: Gallery, cursor: str | None, *, limit: int, budget: int, templates: int
) -> tuple[list[UUID], str | None]:
    """Whom to examine now, one person at least where there is any, and the cursor of the page behind it.

    Args:
        cursor: of this page; None begins.
        limit: so many persons at most.
        budget: of so many templates in all, unless the first person alone has more.
        templates: of each of them, so many at most are looked at.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        DomainNotFound: the domain was deleted meanwhile.
    """
    after = None if cursor is None else _decoded(cursor)
    waiting = persons_after(session, gallery, after, limit=limit + 1, templates=templates)
    chosen: list[UUID] = []
    for person_id, count in waiting[:limit]:
        budget -= count
        if chosen and budget < 0:
            break
        chosen.append(person_id)
    return chosen, encode_cursor(str(chosen[-1])) if len(chosen) < len(waiting) else None


def names_of(session: Session, domain_id: int, persons: Collection[UUID]) -> dict[UUID, PersonRef]:
    """Who these persons are; without those that were deleted meanwhile."""
    query = select(Person.id, Person.label, Person.display_name)
    rows = session.execute(query.where(Person.domain_id == domain_id, Person.id.in_(persons)))
    return {row[0]: PersonRef(*row) for row in rows}


def _decoded(cursor: str) -> UUID:
    (after,) = decode_cursor(cursor, 1)
    if (person_id := as_uuid(after)) is None:
        raise InvalidRequest("The cursor is not one that this service gave.")
    return person_id
