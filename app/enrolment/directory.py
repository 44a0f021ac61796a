"""A domain's persons as lists show them: searched by name, in pages, with what is to be seen of each at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, ScalarSelect, Select, case, func, literal, or_, select

from app.config import Settings
from app.db.models import Domain, FaceEmbedding, Person
from app.db.session import Database
from app.enrolment.images import ImageStore
from app.enrolment.lookup import PersonInfo, find_domain, info_of, select_persons
from app.enrolment.quality import GOOD_SHARE, Grade, QualityScale
from app.names import clean_name
from app.pages import decode_cursor, encode_cursor
from app.vision.packs import PackStore

# From the worst to the best; the numbers are those of `_best_grade`.
_GRADES: Final = (Grade.UNKNOWN, Grade.POOR, Grade.FAIR, Grade.GOOD)


@dataclass(frozen=True, slots=True)
class ListedPerson:
    """A person in a list.

    Attributes:
        quality: of the best template; None where there is none.
        has_image: whether a picture of some face was kept.
    """

    info: PersonInfo
    quality: Grade | None
    has_image: bool


@dataclass(frozen=True, slots=True)
class PersonPage:
    """One page of persons.

    Attributes:
        total: how many there are on all pages together; None on those behind the first.
        next_cursor: None on the last.
    """

    items: Sequence[ListedPerson]
    total: int | None
    next_cursor: str | None


class PersonDirectory:
    """Lists persons."""

    def __init__(self, settings: Settings, database: Database, packs: PackStore, images: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._packs = packs
        self._images = images

    def list(
        self,
        domain: str,
        *,
        limit: int,
        cursor: str | None = None,
        contains: str | None = None,
        external_id: str | None = None,
    ) -> PersonPage:
        """Persons by label.

        Args:
            contains: only those whose label, display name or external id contains this, in any case, with accents or without.
            external_id: only the one whom another system calls so.

        Raises:
            DomainNotFound: no such domain.
            InvalidName: nobody can have what is looked for in their names.
            InvalidRequest: the cursor is not one of ours.
        """
        wanted: list[ColumnElement[bool]] = []
        if contains:
            # Not LIKE: folding may make a % of what was none.
            wanted.append(func.strpos(Person.searched, func.folded_name(clean_name(contains, "search text"))) > 0)
        if external_id is not None:
            wanted.append(Person.external_id == clean_name(external_id, "external id"))
        after = None if cursor is None else decode_cursor(cursor, 1)[0]
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            rows = session.execute(self._select(found, wanted, after).limit(limit + 1)).all()
            total = None
            if after is None:
                counted = select(func.count()).select_from(Person).where(Person.domain_id == found.id, *wanted)
                total = session.scalar(counted) if len(rows) > limit else len(rows)
            items = [self._listed(found, *row) for row in rows[:limit]]
        more = len(rows) > limit
        return PersonPage(items, total, encode_cursor(items[-1].info.label) if more else None)

    def _select(self, domain: Domain, wanted: Sequence[ColumnElement[bool]], after: str | None) -> Select[Any]:
        scale = QualityScale.of(self._settings, self._packs, domain.model)
        query = select_persons(domain.id).add_columns(_best_grade(domain.id, scale)).where(*wanted)
        if after is not None:
            query = query.where(Person.label > after)
        return query.order_by(Person.label)

    def _listed(self, domain: Domain, *row: Any) -> ListedPerson:
        *known, grade = row
        info = info_of(*known)
        has_image = bool(self._images.kept(domain.uid, info.id, 1))
        return ListedPerson(info, None if grade is None else _GRADES[grade], has_image)


def _best_grade(domain_id: int, scale: QualityScale) -> ScalarSelect[int | None]:
    """For a query of persons: the place in `_GRADES` of each one's best template, as `QualityScale.grade` has it."""
    size_px, sharpness = func.least(FaceEmbedding.box_w, FaceEmbedding.box_h), FaceEmbedding.sharpness
    grade: Any = literal(0)
    if scale.min_sharpness is not None:
        good_px, good_sharpness = GOOD_SHARE * scale.min_face_px, GOOD_SHARE * scale.min_sharpness
        grade = case(
            (or_(size_px <= 0, sharpness <= 0), 0),
            (or_(size_px < scale.min_face_px, sharpness < scale.min_sharpness), 1),
            (or_(size_px < good_px, sharpness < good_sharpness), 2),
            else_=3,
        )
    belongs = (FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == Person.id)
    return select(func.max(grade)).where(*belongs).correlate(Person).scalar_subquery()
