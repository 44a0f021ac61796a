"""Persons of a domain who may be one: pairs whose templates are near to each other."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from app.config import Settings
from app.db.domains import load_gallery
from app.db.neighbours import Pair, near_pairs, scans
from app.db.session import Database
from app.enrolment.examining import names_of, next_persons
from app.enrolment.images import ImageStore
from app.enrolment.lookup import PersonRef, find_domain
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
        pictured: of whom among them a picture was kept.
        next_cursor: None where all persons have been examined.
    """

    pairs: list[DuplicatePair]
    examined: int
    truncated: bool
    threshold: float
    pictured: frozenset[UUID]
    next_cursor: str | None


class DuplicateService:
    """Looks for persons who were enrolled twice."""

    def __init__(self, settings: Settings, database: Database, packs: PackStore, images: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._packs = packs
        self._images = images

    def find(self, domain: str, *, limit: int, cursor: str | None, threshold: float | None = None) -> DuplicatePage:
        """Compare at most `limit` persons with all others; fewer where they have many templates.

        Args:
            threshold: largest cosine distance of a pair; None is the model pack's.

        Raises:
            DomainNotFound: no such domain.
            InvalidRequest: the cursor is not one of ours.
            UnknownModel: the domain's model pack is not installed, and no threshold was given.
        """
        with self._database.transaction() as session:
            of = find_domain(session, domain)
            domain_uid, gallery = of.uid, load_gallery(session, of.name)
            bound = self._packs.get(gallery.model).manifest.calibration.threshold if threshold is None else threshold
            budget = _TEMPLATES_PER_PAGE
            exact_max_rows = self._settings.exact_max_rows(gallery.dimension)
            if scans(gallery, exact_max_rows):
                budget = min(budget, _COMPARISONS_PER_PAGE // max(1, gallery.template_count))
            persons, next_cursor = next_persons(
                session, gallery, cursor, limit=limit, budget=budget, templates=_TEMPLATES_PER_PERSON
            )
            found = near_pairs(
                session,
                gallery,
                persons,
                threshold=bound,
                templates=_TEMPLATES_PER_PERSON,
                pairs=_PAIRS_PER_PAGE + 1,
                exact_max_rows=exact_max_rows,
                ef_search=self._settings.search_ef,
            )
            pairs = _named(session, gallery.domain_id, found[:_PAIRS_PER_PAGE])
        shown = {person.id for pair in pairs for person in (pair.first, pair.second)}
        pictured = frozenset(person_id for person_id in shown if self._images.kept(domain_uid, person_id, 1))
        return DuplicatePage(pairs, len(persons), len(found) > _PAIRS_PER_PAGE, bound, pictured, next_cursor)


def _named(session: Session, domain_id: int, pairs: list[Pair]) -> list[DuplicatePair]:
    names = names_of(session, domain_id, {person_id for pair in pairs for person_id in (pair.first, pair.second)})
    return [
        DuplicatePair(names[pair.first], names[pair.second], pair.distance)
        for pair in pairs
        if pair.first in names and pair.second in names  # deleted meanwhile
    ]
