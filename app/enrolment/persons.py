"""Persons of a domain: create, list, find, change, delete."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.domains import lock_domain
from app.db.models import FaceEmbedding, Person
from app.db.session import Database
from app.db.templates import delete_person
from app.enrolment.lookup import find_domain
from app.enrolment.pages import Page, decode_cursor, encode_cursor
from app.errors import PersonExists, PersonNotFound
from app.names import as_uuid, clean_name


class Unset:
    """The type of `UNSET`: what a change leaves as it is."""


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True)
class PersonInfo:
    """A person; `faces` counts the templates."""

    id: UUID
    label: str
    display_name: str
    faces: int
    created_at: datetime
    updated_at: datetime


class PersonService:
    """The operations on persons. `label` in the arguments is a label or, where nobody has that label, an id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, domain: str, label: str, display_name: str | None) -> PersonInfo:
        """Make a person without faces.

        Raises:
            InvalidName: a name that cannot be kept.
            DomainNotFound: no such domain.
            PersonExists: the label is taken.
        """
        label = clean_name(label, "label")
        shown = label if display_name is None else clean_name(display_name, "display name")
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            person = add_person(session, domain_id, label, shown)
            return _info(person, 0)

    def list(self, domain: str, *, limit: int, cursor: str | None, contains: str | None) -> Page[PersonInfo]:
        """Persons by label, those only whose label or display name contains a text where one is given (any case).

        Raises:
            DomainNotFound: no such domain.
            InvalidRequest: the cursor is not one of ours.
        """
        with self._database.transaction() as session:
            query = _with_faces(find_domain(session, domain).id).order_by(Person.label).limit(limit + 1)
            if cursor is not None:
                (after,) = decode_cursor(cursor, 1)
                query = query.where(Person.label > after)
            if contains:
                wanted = clean_name(contains, "search text")
                query = query.where(
                    Person.label.icontains(wanted, autoescape=True)
                    | Person.display_name.icontains(wanted, autoescape=True)
                )
            found = [_info(person, faces) for person, faces in session.execute(query)]
        more = len(found) > limit
        return Page(found[:limit], encode_cursor(found[limit - 1].label) if more else None)

    def get(self, domain: str, label: str) -> PersonInfo:
        """One person.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
        """
        with self._database.transaction() as session:
            return read_person(session, find_domain(session, domain).id, label)

    def update(
        self, domain: str, label: str, *, new_label: str | Unset = UNSET, display_name: str | Unset | None = UNSET
    ) -> PersonInfo:
        """Change what is given; a display name of None shows the label again.

        Raises:
            InvalidName: a name that cannot be kept.
            DomainNotFound, PersonNotFound: as their names say.
            PersonExists: the new label is taken.
        """
        cleaned_label = UNSET if isinstance(new_label, Unset) else clean_name(new_label, "label")
        shown = (
            display_name
            if display_name is None or isinstance(display_name, Unset)
            else clean_name(display_name, "display name")
        )
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            person = find_person(session, domain_id, label)
            followed = person.display_name == person.label
            if not isinstance(cleaned_label, Unset) and cleaned_label != person.label:
                _refuse_taken(session, domain_id, cleaned_label)
                person.label = cleaned_label
                if followed:
                    person.display_name = cleaned_label
            if not isinstance(shown, Unset):
                person.display_name = person.label if shown is None else shown
            session.flush()
            session.refresh(person)
            return _read(session, person)

    def delete(self, domain: str, label: str) -> PersonInfo:
        """Delete a person with all faces. Returns what they were.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            info = _read(session, find_person(session, domain_id, label))
            delete_person(session, domain_id, info.id)
        return info


def find_person(session: Session, domain_id: int, label: str) -> Person:
    """The person of that label or, where nobody has it, of that id.

    Raises:
        InvalidName: nobody can have that label.
        PersonNotFound: neither.
    """
    label = clean_name(label, "label")
    person = find_by_label(session, domain_id, label)
    if person is None and (person_id := as_uuid(label)) is not None:
        query = select(Person).where(Person.domain_id == domain_id, Person.id == person_id)
        person = session.scalars(query).one_or_none()
    if person is None:
        raise PersonNotFound(f"There is no person {label!r} in this domain.")
    return person


def read_person(session: Session, domain_id: int, label: str) -> PersonInfo:
    """As `find_person`, with the count of faces."""
    return _read(session, find_person(session, domain_id, label))


def find_by_label(session: Session, domain_id: int, label: str) -> Person | None:
    """The person of exactly that label, None where nobody has it."""
    return session.scalars(select(Person).where(Person.domain_id == domain_id, Person.label == label)).one_or_none()


def add_person(session: Session, domain_id: int, label: str, display_name: str) -> Person:
    """Store a new person, under the domain's lock, which the caller holds.

    Raises:
        PersonExists: the label is taken.
    """
    _refuse_taken(session, domain_id, label)
    person = Person(domain_id=domain_id, label=label, display_name=display_name)
    session.add(person)
    try:
        session.flush()
    except IntegrityError as error:
        raise PersonExists(f"A person labelled {label!r} exists already in this domain.") from error
    session.refresh(person)
    return person


def _refuse_taken(session: Session, domain_id: int, label: str) -> None:
    """A label that is another person's label, or their id: it would hide that person from requests by id."""
    taken = select(Person.id).where(Person.domain_id == domain_id, Person.label == label)
    if (as_id := as_uuid(label)) is not None:
        taken = select(Person.id).where(Person.domain_id == domain_id, (Person.label == label) | (Person.id == as_id))
    if session.scalars(taken).first() is not None:
        raise PersonExists(f"A person labelled {label!r} exists already in this domain.")


def _with_faces(domain_id: int) -> Select[Person, int]:
    faces = (
        select(func.count())
        .select_from(FaceEmbedding)
        .where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == Person.id)
        .scalar_subquery()
    )
    return select(Person, faces).where(Person.domain_id == domain_id)


def _read(session: Session, person: Person) -> PersonInfo:
    row = session.execute(_with_faces(person.domain_id).where(Person.id == person.id)).one_or_none()
    if row is None:
        raise PersonNotFound("The person was deleted.")
    return _info(*row)


def _info(person: Person, faces: int) -> PersonInfo:
    return PersonInfo(
        id=person.id,
        label=person.label,
        display_name=person.display_name,
        faces=faces,
        created_at=person.created_at,
        updated_at=person.updated_at,
    )
