"""How near a face is to one person (1:1): all of their templates are compared, no index is asked."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from pgvector import Vector
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.partitions import gone_means_deleted
from app.db.vectors import VALID_NOW_SQL
from app.errors import ContractMismatch, DomainNotFound, DomainNotMigrated, PersonNotFound
from app.names import as_uuid
from app.vision.faces import Float32Array

_ONE_SQL: Final = f"""
SELECT seen.templates, seen.nearest, seen.rejected, {VALID_NOW_SQL}
FROM persons AS p CROSS JOIN LATERAL distances_to_person(p.domain_id, p.id, CAST(:probe AS vector)) AS seen
WHERE p.domain_id = :domain_id AND p.id = :person_id
"""  # noqa: S608 - constants
_FRAMES_SQL: Final = f"""
SELECT seen.templates, seen.nearest, seen.rejected, {VALID_NOW_SQL}
FROM persons AS p JOIN face_session_frames AS f ON f.session_id = :session_id
CROSS JOIN LATERAL distances_to_person(p.domain_id, p.id, f.embedding) AS seen
WHERE p.domain_id = :domain_id AND p.id = :person_id ORDER BY f.frame
"""  # noqa: S608 - constants
# Of embeddings of another contract the function is called with NULL, and answers nothing.
_CLAIM_SQL: Final = f"""
SELECT d.id, d.name, d.contract, d.complete, p.id, p.label, p.display_name, seen.templates, seen.nearest, seen.rejected, p.valid
FROM (SELECT * FROM domains WHERE name = :domain OR uid = :domain_uid ORDER BY (name = :domain) DESC LIMIT 1) AS d
LEFT JOIN LATERAL (
    SELECT id, label, display_name, {VALID_NOW_SQL} AS valid FROM persons
    WHERE domain_id = d.id AND (label = :label OR external_id = :label OR id = :person_id)
    ORDER BY (label = :label) DESC, (external_id IS NOT DISTINCT FROM :label) DESC LIMIT 1
) AS p ON true
LEFT JOIN LATERAL distances_to_person(
    d.id, p.id, CASE WHEN d.contract = :contract THEN CAST(:probe AS vector) END
) AS seen ON true
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class PersonDistances:
    """A face compared with a person.

    Attributes:
        templates: how many the person has.
        nearest: cosine distance (0 to 2) of the nearest of them; None where there are none.
        rejected: of the nearest face that was rejected for the person; None where none was.
        valid: whether the person is valid now, by the database's clock.
    """

    templates: int
    nearest: float | None
    rejected: float | None
    valid: bool

    def is_rejected(self, threshold: float) -> bool:
        """Whether the face was said not to be this person's, as a search takes it (`app/db/vectors.py`)."""
        if self.rejected is None or self.nearest is None:
            return False
        return self.rejected <= threshold and self.rejected < self.nearest


@dataclass(frozen=True, slots=True)
class Claimed:
    """A person whom somebody claims to be, and how near they are to them."""

    domain: str
    person_id: UUID
    label: str
    display_name: str
    distances: PersonDistances


def distances_to(session: Session, domain_id: int, person_id: UUID, embedding: Float32Array) -> PersonDistances | None:
    """Compare a face with a person, in one round trip; None where the person is gone.

    Args:
        embedding: float32, (D,), unit length, of the domain's contract.

    Raises:
        DomainNotFound: it was deleted meanwhile.
    """
    values = {"domain_id": domain_id, "person_id": person_id, "probe": Vector(embedding)}
    with gone_means_deleted():
        row = session.execute(text(_ONE_SQL), values).one_or_none()
    return None if row is None else _distances(*row)


def distances_of_frames(
    session: Session, domain_id: int, person_id: UUID, session_id: UUID
) -> tuple[PersonDistances, ...]:
    """Compare the frames that a session keeps with a person as they are now, in the order of the frames.

    Raises:
        DomainNotFound: it was deleted meanwhile.
    """
    values = {"domain_id": domain_id, "person_id": person_id, "session_id": session_id}
    with gone_means_deleted():
        return tuple(_distances(*row) for row in session.execute(text(_FRAMES_SQL), values))


def claim_person(session: Session, domain: str, label: str, embedding: Float32Array, contract: str) -> Claimed:
    """Find a person by label, external id or id, in this order, and compare a face with them; all in one round trip.

    Args:
        domain, label: cleaned.
        embedding: float32, (D,), unit length.
        contract: of the embedding.

    Raises:
        DomainNotFound, PersonNotFound: as their names say.
        DomainNotMigrated: the domain's first migration has not finished.
        ContractMismatch: the domain's templates are another model's.
    """
    values = {
        "domain": domain,
        "domain_uid": as_uuid(domain),
        "label": label,
        "person_id": as_uuid(label),
        "contract": contract,
        "probe": Vector(embedding),
    }
    with gone_means_deleted():
        row = session.execute(text(_CLAIM_SQL), values).one_or_none()
    if row is None:
        raise DomainNotFound(f"There is no domain named {domain!r}.")
    _, name, wanted, complete, person_id, found_label, display_name, *distances = row
    if person_id is None:
        if not complete:
            raise DomainNotMigrated(f"Domain {name!r} is being migrated into the database.")
        raise PersonNotFound(f"There is no person {label!r} in this domain.")
    if wanted != contract:
        raise ContractMismatch(f"Domain {name!r} holds embeddings of {wanted}; these are of {contract}.")
    return Claimed(name, person_id, found_label, display_name, _distances(*distances))


def _distances(templates: int, nearest: float | None, rejected: float | None, valid: bool) -> PersonDistances:
    # Rounding may take a template compared with itself below zero.
    return PersonDistances(templates, _clipped(nearest), _clipped(rejected), valid)


def _clipped(distance: float | None) -> float | None:
    return None if distance is None else min(2.0, max(0.0, distance))
