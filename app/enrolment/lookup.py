"""From what a client calls a domain or a person to the domain or the person."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, literal_column, or_, select
from sqlalchemy.orm import Session

from app.db import domains
from app.db.models import Domain, FaceEmbedding, Person
from app.db.references import PhotoCounts, photos_by_state
from app.db.vectors import VALID_NOW_SQL
from app.errors import PersonNotFound
from app.names import as_uuid, clean_name


@dataclass(frozen=True, slots=True)
class PersonInfo:
    """A person.

    Attributes:
        faces: how many templates.
        reference_photos: how many of them in each state.
        valid_from, valid_until: in UTC; None is unbounded.
        valid: whether recognition may name the person now, by the database's clock.
    """

    id: UUID
    label: str
    display_name: str
    external_id: str | None
    valid_from: datetime | None
    valid_until: datetime | None
    valid: bool
    metadata: dict[str, Any]
    faces: int
    reference_photos: PhotoCounts
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PersonRef:
    """Who a person is, in short."""

    id: UUID
    label: str
    display_name: str

    @classmethod
    def of(cls, person: Person) -> "PersonRef":
        """That person's."""
        return cls(person.id, person.label, person.display_name)


def find_domain(session: Session, name: str) -> Domain:
    """The domain of that name, in whatever spelling `clean_name` makes equal, or else of that id.

    Raises:
        InvalidName: no domain can have that name.
        DomainNotFound: none has it.
    """
    return domains.find_domain(session, clean_name(name, "domain name"))


def find_person(session: Session, domain_id: int, label: str) -> Person:
    """The person of that label or, where nobody has it, of that external id or, at last, of that id.

    Raises:
        InvalidName: nobody can have that label.
        PersonNotFound: none of the three.
    """
    name = clean_name(label, "label")
    query = (
        select(Person)
        .where(Person.domain_id == domain_id, called(name))
        .order_by((Person.label == name).desc(), Person.external_id.is_not_distinct_from(name).desc())
        .limit(1)
    )
    person = session.scalars(query).one_or_none()
    if person is None:
        raise PersonNotFound(f"There is no person {name!r} in this domain.")
    return person


def find_person_or_none(session: Session, domain_id: int, label: str) -> Person | None:
    """As `find_person`, None where there is none."""
    try:
        return find_person(session, domain_id, label)
    except PersonNotFound:
        return None


def called(name: str) -> Any:
    """The condition that a person's label, external id or id is this cleaned name."""
    person_id = as_uuid(name)
    conditions = [Person.label == name, Person.external_id == name]
    return or_(*conditions, *([Person.id == person_id] if person_id is not None else []))


def read_person(session: Session, domain_id: int, label: str) -> PersonInfo:
    """What there is to say of the person that `find_person` finds."""
    return read(session, find_person(session, domain_id, label))


def read(session: Session, person: Person) -> PersonInfo:
    """What there is to say of a person.

    Raises:
        PersonNotFound: deleted meanwhile.
    """
    row = session.execute(select_persons(person.domain_id).where(Person.id == person.id)).one_or_none()
    if row is None:
        raise PersonNotFound("The person was deleted.")
    return info_of(*row)


def select_persons(domain_id: int) -> Select[Person, int, dict[str, int], bool]:
    """The persons of a domain, each with what `info_of` takes: their faces, their photos, and whether they are valid now."""
    faces = (
        select(func.count())
        .select_from(FaceEmbedding)
        .where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == Person.id)
        .scalar_subquery()
    )
    valid: ColumnElement[bool] = literal_column(VALID_NOW_SQL).label("valid")
    return select(Person, faces, photos_by_state(domain_id), valid).where(Person.domain_id == domain_id)


def info_of(person: Person, faces: int, photos: dict[str, int] | None, valid: bool) -> PersonInfo:
    """A row of `select_persons` as others see it."""
    return PersonInfo(
        id=person.id,
        label=person.label,
        display_name=person.display_name,
        external_id=person.external_id,
        valid_from=person.valid_from,
        valid_until=person.valid_until,
        valid=valid,
        metadata=person.attributes,
        faces=faces,
        reference_photos=PhotoCounts(**(photos or {})),
        created_at=person.created_at,
        updated_at=person.updated_at,
    )
