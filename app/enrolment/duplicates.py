"""Persons of a domain who may be one: pairs whose templates are near to each other."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db.domains import Gallery, load_gallery
from app.db.models import Person
from app.db.neighbours import Pair, near_pairs, persons_after, scans
from app.db.session import Database
from app.enrolment.lookup import PersonRef, find_domain
from app.errors import InvalidRequest
from app.names import as_uuid
from app.pages import decode_cursor, encode_cursor
from app.vision.packs import PackStore

# What a page costs is bounded by the templates that it looks at, each with a search; and where they are compared with all
# others, by the comparisons.
_TEMPLATES_PER_PAGE: Final = 500
_COMPARISONS_PER_PAGE: Final = 1_000_000
_TEMPLATES_PER_PERSON: Final = 50
_PAIRS_PER_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two persons who may be one, at the cosine distance (0 to 2) of their nearest templates."""

    first: PersonRef
    second: PersonRef
    distance: float


@dataclass(frozen=True, slots=True)
class DuplicatePage:
    """What was found for some persons.

    Attributes:
        pairs: nearest first; each pair stands on one page only.
        examined: how many persons were compared with all others.
        truncated: there are more pairs than are shown: the threshold is too large.
        threshold: the largest cosine distance of a pair.
        next_cursor: None where all persons have been examined.
    """

    pairs: list[DuplicatePair]
    examined: int
    truncated: bool
    threshold: float
    next_cursor: str | None


class DuplicateService:
    """Looks for persons who were enrolled twice."""

    def __init__(self, settings: Settings, database: Database, packs: PackStore) -> None:
        self._settings = settings
        self._database = database
        self._packs = packs

    def find(self, domain: str, *, limit: int, cursor: str | None, threshold: float | None = None) -> DuplicatePage:
        """Compare at most `limit` persons with all others; fewer where they have many templates.

        Args:
            threshold: largest cosine distance of a pair; None is the model pack's.

        Raises:
            DomainNotFound: no such domain.
            InvalidRequest: the cursor is not one of ours.
            UnknownModel: the domain's model pack is not installed, and no threshold was given.
        """
        after = None if cursor is None else _decoded(cursor)
        with self._database.transaction() as session:
            gallery = load_gallery(session, find_domain(session, domain).name)
            bound = self._packs.get(gallery.model).manifest.calibration.threshold if threshold is None else threshold
            persons, more = self._next_persons(session, gallery, after, limit)
            found = near_pairs(
                session,
                gallery,
                persons,
                threshold=bound,
                templates=_TEMPLATES_PER_PERSON,
                pairs=_PAIRS_PER_PAGE + 1,
                exact_max_rows=self._settings.search_exact_max_rows,
                ef_search=self._settings.search_ef,
            )
            pairs = _named(session, gallery.domain_id, found[:_PAIRS_PER_PAGE])
        next_cursor = encode_cursor(str(persons[-1])) if more else None
        return DuplicatePage(pairs, len(persons), len(found) > _PAIRS_PER_PAGE, bound, next_cursor)

    def _next_persons(
        self, session: Session, gallery: Gallery, after: UUID | None, limit: int
    ) -> tuple[list[UUID], bool]:
        """Whom to examine now, one person at least where there is any, and whether there are more."""
        budget = _TEMPLATES_PER_PAGE
        if scans(gallery, self._settings.search_exact_max_rows):
            budget = min(budget, _COMPARISONS_PER_PAGE // max(1, gallery.template_count))
        waiting = persons_after(session, gallery, after, limit=limit + 1, templates=_TEMPLATES_PER_PERSON)
        chosen: list[UUID] = []
        for person_id, templates in waiting[:limit]:
            budget -= templates
            if chosen and budget < 0:
                break
            chosen.append(person_id)
        return chosen, len(chosen) < len(waiting)


def _named(session: Session, domain_id: int, pairs: list[Pair]) -> list[DuplicatePair]:
    wanted = {person_id for pair in pairs for person_id in (pair.first, pair.second)}
    query = select(Person.id, Person.label, Person.display_name)
    rows = session.execute(query.where(Person.domain_id == domain_id, Person.id.in_(wanted)))
    names = {row[0]: PersonRef(*row) for row in rows}
    return [
        DuplicatePair(names[pair.first], names[pair.second], pair.distance)
        for pair in pairs
        if pair.first in names and pair.second in names  # deleted meanwhile
    ]


def _decoded(cursor: str) -> UUID:
    (after,) = decode_cursor(cursor, 1)
    if (person_id := as_uuid(after)) is None:
        raise InvalidRequest("The cursor is not one that this service gave.")
    return person_id
