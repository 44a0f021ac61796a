"""A warning where a new template is near to somebody else: two persons may be one, or the photo shows another."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy.orm import Session

from app.config import Settings
from app.db.domains import load_gallery
from app.db.models import Domain, Person
from app.db.neighbours import nearest_other, scans
from app.enrolment.lookup import PersonRef
from app.vision.faces import Float32Array

# In a larger gallery whose index is being built, each writer would hold up all others for a scan.
_SCANNED_AT_MOST: Final = 10_000


class ResemblanceCode(StrEnum):
    """What is odd about a new template."""

    CLOSER_TO_OTHER = "closer_to_other"
    """It is nearer to somebody else's templates than to the person's own."""

    RESEMBLES_OTHER = "resembles_other"
    """It would be taken for somebody else, were the person not there."""


@dataclass(frozen=True, slots=True)
class Resemblance:
    """To whom a new template is near, at the cosine distance of that person's nearest template."""

    code: ResemblanceCode
    person: PersonRef
    distance: float


def resemblances(
    session: Session,
    settings: Settings,
    domain: Domain,
    person: Person,
    embedding: Float32Array,
    *,
    own_distance: float | None,
    threshold: float,
) -> tuple[Resemblance, ...]:
    """Whom, if anybody, a new template is nearer to than it should be.

    Args:
        person: whose template it is.
        embedding: float32, (D,), unit length.
        own_distance: to the nearest of the person's other templates; None where there are none.
        threshold: largest cosine distance that counts as the same person's.
    """
    gallery = load_gallery(session, domain.name)
    exact_max_rows = settings.exact_max_rows(gallery.dimension)
    if gallery.template_count > max(exact_max_rows, _SCANNED_AT_MOST) and scans(gallery, exact_max_rows):
        return ()
    other = nearest_other(
        session, gallery, person.id, embedding, exact_max_rows=exact_max_rows, ef_search=settings.search_ef
    )
    if other is None:
        return ()
    code = _code(other.distance, own_distance, threshold)
    found = session.get(Person, other.person_id)
    if code is None or found is None:
        return ()
    return (Resemblance(code, PersonRef.of(found), other.distance),)


def _code(distance: float, own_distance: float | None, threshold: float) -> ResemblanceCode | None:
    if own_distance is not None and distance < own_distance:
        return ResemblanceCode.CLOSER_TO_OTHER
    return ResemblanceCode.RESEMBLES_OTHER if distance <= threshold else None
