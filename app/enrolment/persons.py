"""Persons of a domain: create, find, change. `app/enrolment/directory.py` lists them, `app/erasure` deletes them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit import record
from app.db.domains import lock_domain
from app.db.job_files import rename_files
from app.db.models import Person
from app.db.session import Database
from app.db.sessions import sessions_follow
from app.enrolment.attributes import check_metadata, check_window
from app.enrolment.lookup import (
    PersonInfo,
    called,
    find_domain,
    find_person,
    read,
    read_person,
)
from app.errors import MetadataTooLarge, PersonExists
from app.names import clean_name

T = TypeVar("T")


class Unset:
    """The type of `UNSET`: what a change leaves as it is."""


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True)
class PersonDetails:
    """What may be said of a new person beside the names.

    Attributes:
        external_id: unique in the domain; what another system calls the person.
        valid_from, valid_until: with a zone; outside of [from, until) recognition does not know the person.
        metadata: a JSON object.
    """

    external_id: str | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PersonChange:
    """What to change of a person: all of `PersonDetails`, and the names. What is unset stays; None takes it away.

    A display name of None shows the label again; metadata are replaced as a whole.
    """

    label: str | Unset = UNSET
    display_name: str | Unset | None = UNSET
    external_id: str | Unset | None = UNSET
    valid_from: datetime | Unset | None = UNSET
    valid_until: datetime | Unset | None = UNSET
    metadata: Mapping[str, Any] | Unset | None = UNSET

    @property
    def fields(self) -> list[str]:
        """Names of what is changed."""
        return [field.name for field in fields(self) if not isinstance(getattr(self, field.name), Unset)]


class PersonService:
    """The operations on persons. `label` in the arguments is a label, an external id or an id, in this order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, domain: str, label: str, display_name: str | None, details: PersonDetails | None = None
    ) -> PersonInfo:
        """Make a person without faces.

        Raises:
            InvalidName: a name that cannot be kept.
            InvalidValidity, InvalidMetadata: as their names say.
            DomainNotFound: no such domain.
            PersonExists: the label or the external id is another person's.
        """
        with self._database.transaction() as session:
            return read(session, new_person(session, domain, label, display_name, details))

    def get(self, domain: str, label: str) -> PersonInfo:
        """One person.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
        """
        with self._database.transaction() as session:
            return read_person(session, find_domain(session, domain).id, label)

    def update(self, domain: str, label: str, change: PersonChange) -> PersonInfo:
        """Change what is given, all of it or nothing.

        Raises:
            InvalidName: a name that cannot be kept.
            InvalidValidity, InvalidMetadata: as their names say.
            DomainNotFound, PersonNotFound: as their names say.
            PersonExists: the new label or external id is another person's.
        """
        change = _cleaned(change)
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            person = find_person(session, domain_id, label)
            _refuse_taken(session, domain_id, _given(change.label), _given(change.external_id), keeper=person)
            former, former_external_id = person.label, person.external_id
            _apply(person, change)
            check_window(person.valid_from, person.valid_until)
            _flush(session)
            if person.external_id != former_external_id:
                rename_files(session, domain_id, [former_external_id], person.label)
            if person.label != former:
                rename_files(session, domain_id, [former], person.label)
            if (person.label, person.external_id) != (former, former_external_id):
                sessions_follow(session, domain_id, (former, former_external_id), person.id, person.id)
            session.refresh(person)
            info = read(session, person)
            if change.fields:
                record(
                    session, "person.changed", domain_id=domain_id, persons=[person.id], fields=",".join(change.fields)
                )
            return info


def new_person(
    session: Session, domain: str, label: str, display_name: str | None, details: PersonDetails | None = None
) -> Person:
    """Make a person without faces, and leave an event of it; locks the domain.

    Raises: as `PersonService.create`.
    """
    label = clean_name(label, "label")
    shown = label if display_name is None else clean_name(display_name, "display name")
    kept = _checked(details or PersonDetails())
    domain_id = find_domain(session, domain).id
    lock_domain(session, domain_id)
    person = add_person(session, domain_id, label, shown, kept)
    record(session, "person.created", domain_id=domain_id, persons=[person.id])
    return person


def add_person(
    session: Session, domain_id: int, label: str, display_name: str, details: PersonDetails | None = None
) -> Person:
    """Store a new person, under the domain's lock, which the caller holds.

    Args:
        details: checked.

    Raises:
        PersonExists: the label or the external id is another person's label, external id or id.
        MetadataTooLarge: as its name says.
    """
    details = details or PersonDetails()
    _refuse_taken(session, domain_id, label, details.external_id)
    person = Person(
        domain_id=domain_id,
        label=label,
        display_name=display_name,
        external_id=details.external_id,
        valid_from=details.valid_from,
        valid_until=details.valid_until,
        attributes=dict(details.metadata or {}),
    )
    session.add(person)
    _flush(session)
    session.refresh(person)
    return person


def _checked(details: PersonDetails) -> PersonDetails:
    check_window(details.valid_from, details.valid_until)
    check_metadata(details.metadata or {})
    external_id = None if details.external_id is None else clean_name(details.external_id, "external id")
    return PersonDetails(external_id, details.valid_from, details.valid_until, details.metadata)


def _cleaned(change: PersonChange) -> PersonChange:
    """The change with its names as they are kept, its metadata checked."""

    def name(value: str | Unset | None, what: str) -> str | Unset | None:
        return clean_name(value, what) if isinstance(value, str) else value

    if isinstance(change.metadata, Mapping):
        check_metadata(change.metadata)
    return PersonChange(
        label=change.label if isinstance(change.label, Unset) else clean_name(change.label, "label"),
        display_name=name(change.display_name, "display name"),
        external_id=name(change.external_id, "external id"),
        valid_from=change.valid_from,
        valid_until=change.valid_until,
        metadata=change.metadata,
    )


def _apply(person: Person, change: PersonChange) -> None:
    """The name shown follows the label where it has followed it so far."""
    followed = person.display_name == person.label
    if not isinstance(change.label, Unset) and change.label != person.label:
        person.former_labels = [*dict.fromkeys([*person.former_labels, person.label])]
        person.label = change.label
    shown = _or(change.display_name, person.label if followed else person.display_name)
    person.display_name = person.label if shown is None else shown
    person.external_id = _or(change.external_id, person.external_id)
    person.valid_from = _or(change.valid_from, person.valid_from)
    person.valid_until = _or(change.valid_until, person.valid_until)
    if not isinstance(change.metadata, Unset):
        person.attributes = dict(change.metadata or {})


def _or(value: T | Unset, otherwise: T) -> T:
    return otherwise if isinstance(value, Unset) else value


def _given(value: T | Unset) -> T | None:
    return None if isinstance(value, Unset) else value


def _refuse_taken(session: Session, domain_id: int, *names: str | None, keeper: Person | None = None) -> None:
    """Refuse names that are another person's label, external id or id: they would hide that person from requests by these."""
    for name in {name for name in names if name is not None}:
        query = select(Person.id).where(Person.domain_id == domain_id, called(name))
        if keeper is not None:
            query = query.where(Person.id != keeper.id)
        if session.scalars(query.limit(1)).first() is not None:
            raise _taken(name)


def _flush(session: Session) -> None:
    try:
        session.flush()
    except IntegrityError as error:
        # The database counts the bytes of metadata as it keeps them.
        if getattr(getattr(error.orig, "diag", None), "constraint_name", None) == "persons_metadata_check":
            raise MetadataTooLarge("The metadata is longer than the database keeps.") from error
        raise PersonExists("Another person of this domain has this label or external id.") from error


def _taken(name: str) -> PersonExists:
    return PersonExists(f"A person labelled {name!r}, or with this external id or id, exists already in this domain.")
