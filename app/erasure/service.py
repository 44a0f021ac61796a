"""Erasing a person, or a domain: the database first, with a note of what is left to do, then every other place.

The note is in the transaction that deletes: whoever is killed in between has lost nothing. `finish` takes it up.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.audit import record, record_domain
from app.datasets.forgetting import DatasetForgetting
from app.db.domains import drop_domain, lock_domain, raise_cache_epoch
from app.db.erasures import (
    Wanted,
    delete_rejections,
    labels_in_use,
    open_erasure,
    settle,
    unfinished,
)
from app.db.idempotency import Claim
from app.db.job_files import forget_files
from app.db.models import Domain, Erasure, FaceEmbedding, Person
from app.db.references import photo_counts
from app.db.session import Database
from app.db.sessions import erase_sessions
from app.db.templates import delete_person
from app.enrolment.images import ImageStore
from app.enrolment.lookup import find_domain, find_person, find_person_or_none
from app.erasure.answers import close_requests, erase_answers
from app.erasure.notes import begun_before, claim_digest, details_of, receipt_of, request_id, subject_of
from app.erasure.places import Dataset, Eraser, StoredPictures, Subject
from app.erasure.receipt import (
    IN_BACKUPS,
    IN_ROWS_OF_OTHERS,
    IN_SWITCHED_OFF_DATABASE,
    Receipt,
    Remnant,
)
from app.erasure.unknown import forget_name
from app.errors import DatabaseDisabled, DatabaseError, DomainNotFound, FacedexError, PersonNotFound
from app.names import as_uuid, clean_name
from app.tenancy import current_reach
from app.vision.packs import PackStore

log = structlog.stdlib.get_logger("facedex.erasure")

# Of a model that is not installed, nobody knows the threshold: only the very same vectors are the person's then.
_SAME: Final = 1e-6


class ErasureService:
    """Takes persons and domains out of every place. `label` is a label or, where nobody has that label, an id.

    Args:
        also: further places.
        remains: what each receipt says of where something remains for a while.
    """

    def __init__(
        self,
        database: Database,
        packs: PackStore,
        datasets: DatasetForgetting,
        images: ImageStore,
        also: Sequence[Eraser] = (),
        remains: Sequence[Remnant] = (),
    ) -> None:
        self._database = database
        self._packs = packs
        self._datasets = datasets
        self._images = images
        # In this order.
        self._places: Sequence[Eraser] = (StoredPictures(images), Dataset(datasets), *also)
        self._remains = tuple(remains)

    def is_long(self, domain: str) -> bool:
        """Whether erasing a person of the domain may take as long as rewriting a dataset takes; in doubt yes.

        Raises:
            InvalidName: it is no domain's name.
        """
        return as_uuid(domain) is not None or self._datasets.concerns(clean_name(domain, "domain name"))

    def erase(self, domain: str, label: str, *, without_database: bool = False, claim: Claim | None = None) -> Receipt:
        """Erase a person.

        Args:
            claim: the request where it may be a repetition: then what it has erased before is its answer.
            without_database: where the database is switched off, erase them from the domain's dataset alone.

        Raises:
            InvalidName, DomainNotFound, PersonNotFound: as their names say; nobody was erased.
            DatabaseError: nothing was erased, unless the connection was lost during the commit itself.
            DatasetUnavailable, DatasetNotWritten: they are in a dataset alone, and it cannot be rewritten.
        """
        try:
            with self._database.transaction() as session:
                found = find_domain(session, domain)
                lock_domain(session, found.id)
                # First of all: of a repetition, the label may be somebody else's by now.
                note = begun_before(session, claim)
                if note is None:
                    note = self._erase_person(session, found, find_person(session, found.id, label), claim)
        except PersonNotFound as missing:
            return self._erase_unknown(domain, label, missing, claim)
        except DomainNotFound as missing:
            if (before := self._erased_before(claim)) is not None:
                return before
            return self._erase_from_dataset(domain, label, missing)
        except DatabaseDisabled as switched_off:
            if not without_database:
                raise
            return self._erase_from_dataset(domain, label, switched_off)
        return self._finish(note)

    def erase_domain(self, domain: str, *, with_dataset: bool = False, claim: Claim | None = None) -> Receipt:
        """Erase a domain with everybody in it.

        Args:
            with_dataset: its PKL dataset as well, which else goes on answering for it.
            claim: as of `erase`.

        Raises:
            DomainNotFound: no such domain.
            DatabaseError: as `erase`.
        """
        places = self._places if with_dataset else [place for place in self._places if place.place != Dataset.place]
        try:
            with self._database.transaction() as session:
                found = find_domain(session, domain)
                lock_domain(session, found.id)
                note = begun_before(session, claim) or self._erase_domain(session, found, places, claim)
        except DomainNotFound:
            if (before := self._erased_before(claim)) is not None:
                return before
            raise
        return self._finish(note)

    def finish(self) -> list[Receipt]:
        """Take up what was left undone. Everything has to be within reach.

        Raises:
            DatabaseError: as its name says.
        """
        with self._database.transaction() as session:
            notes = unfinished(session)
        return [self._finish(note) for note in notes]

    def sweep(self) -> int:
        """Delete pictures that belong to no template. Returns how many; everything has to be within reach.

        Raises:
            DatabaseError: as its name says.
            OSError: a picture cannot be deleted.
        """
        swept = self._images.sweep(self._database.transaction)
        if swept:
            log.warning("[ERASURE] Pictures without a template were deleted", count=swept)
        return swept

    def _erase_domain(self, session: Session, domain: Domain, places: Sequence[Eraser], claim: Claim | None) -> Erasure:
        persons = session.scalar(select(func.count()).select_from(Person).where(Person.domain_id == domain.id))
        photos = photo_counts(session, domain.id).total
        counts = {"persons": persons or 0, "templates": domain.template_count, "reference_photos": photos}
        subject = Subject(domain.name, domain.uid, None, ())
        note = self._open(session, domain.id, subject, counts, places, claim)
        drop_domain(session, domain.id)
        record_domain(session, "domain.deleted", domain.id, domain.uid, model=domain.model, **details_of(note))
        return note

    def _erased_before(self, claim: Claim | None) -> Receipt | None:
        """What was erased for this request when it was sent before; taken up where it was broken off."""
        with self._database.transaction() as session:
            note = begun_before(session, claim)
        return None if note is None else self._finish(note)

    def _erase_person(self, session: Session, domain: Domain, person: Person, claim: Claim | None) -> Erasure:
        """All that the database has, in the caller's transaction, under the domain's lock."""
        labels = tuple(dict.fromkeys((person.label, *person.former_labels)))
        others = labels_in_use(session, domain.name, person.former_labels)
        names = [
            person.label,
            *(label for label in labels if label not in others),
            person.display_name,
            *([person.external_id] if person.external_id else []),
        ]
        wanted, written = Wanted(person.id, frozenset(names)), _written_names(person, others)
        belongs = (FaceEmbedding.domain_id == domain.id, FaceEmbedding.person_id == person.id)
        counts = {
            "templates": session.scalar(select(func.count()).select_from(FaceEmbedding).where(*belongs)) or 0,
            "rejections": delete_rejections(session, domain.id, person.id, self._threshold(domain.model)),
            "reference_photos": photo_counts(session, domain.id, person.id).total,
            "sessions": erase_sessions(session, domain.id, person.id, written),
            "kept_answers": erase_answers(session, domain.id, wanted),
        }
        counts["job_files"] = forget_files(session, domain.id, written)
        close_requests(session, domain.id, person.id)
        delete_person(session, domain.id, person.id)
        raise_cache_epoch(session, domain.id)
        subject = Subject(domain.name, domain.uid, person.id, labels, tuple(person.former_ids))
        note = self._open(session, domain.id, subject, counts, self._places, claim)
        record(session, "person.erased", domain_id=domain.id, persons=[person.id], **details_of(note))
        return note

    def _open(
        self,
        session: Session,
        domain_id: int,
        subject: Subject,
        counts: dict[str, int],
        places: Sequence[Eraser],
        claim: Claim | None,
    ) -> Erasure:
        pending = [place.place for place in places if place.concerns(subject)]
        erasure = Erasure(
            domain_id=domain_id,
            domain_uid=subject.domain_uid,
            domain_name=subject.domain,
            person_id=subject.person_id,
            # Only as long as somebody has to be looked for by it.
            labels=list(subject.labels) if pending else [],
            former_ids=list(subject.former_ids) if pending else [],
            requested_by=current_reach().client,
            request_id=request_id(),
            claim_sha256=claim_digest(claim) if claim else None,
            counts=counts,
            pending=pending,
        )
        return open_erasure(session, erasure)

    def _finish(self, note: Erasure) -> Receipt:
        """See to the places that are left; what fails stays noted."""
        counts, failed, others = dict(note.counts), list[Remnant](), frozenset[str]()
        for place in (place for place in self._places if place.place in note.pending):
            try:
                if place.place == Dataset.place:
                    others = self._others_labels(note)
                counts[place.place] = counts.get(place.place, 0) + place.erase(subject_of(note, others))
            except (FacedexError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                log.error(f"[ERASURE] Unfinished: {place.place}", receipt=str(note.id), reason=reason)
                failed.append(Remnant(place.place, reason or type(error).__name__))
        if note.pending:
            self._settle(note, counts, failed)
        return receipt_of(note, counts, failed, ((IN_ROWS_OF_OTHERS,) if others else ()) + self._remains)

    def _others_labels(self, note: Erasure) -> frozenset[str]:
        """Which of the person's labels are somebody else's now: their rows in the dataset cannot be told from the person's."""
        if not note.labels:
            return frozenset()
        with self._database.transaction() as session:
            return labels_in_use(session, note.domain_name, note.labels)

    def _settle(self, note: Erasure, counts: dict[str, int], failed: list[Remnant]) -> None:
        try:
            with self._database.transaction() as session:
                settle(session, note.id, counts, [remnant.place for remnant in failed])
        except DatabaseError as error:
            log.error("[ERASURE] The note cannot be closed", receipt=str(note.id), reason=str(error))
            failed.append(
                Remnant("note", "The database cannot be told that everything was done; it is done once more.")
            )

    def _erase_unknown(self, domain: str, label: str, missing: PersonNotFound, claim: Claim | None) -> Receipt:
        """Who is no person yet, or only to the dataset; that first: who is killed behind it has no note, and asks again.

        Raises: `missing`, where nobody has heard of them.
        """
        domain, label = clean_name(domain, "domain name"), clean_name(label, "label")
        removed = self._datasets.erase_person(domain, [label]) if self._datasets.names(domain, label) else 0
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            lock_domain(session, found.id)
            counts = {}
            enrolled = find_person_or_none(session, found.id, label) is not None  # meanwhile
            if not enrolled:
                counts = forget_name(session, found.id, label)
            action = "person.erased" if counts else "dataset.person_erased"
            if removed:
                counts[Dataset.place] = removed
            if counts:
                note = self._open(session, found.id, Subject(found.name, found.uid, None, ()), counts, (), claim)
                record(session, action, domain_id=found.id, **details_of(note))
        if enrolled:
            return self.erase(domain, label, claim=claim)
        if not counts:
            raise missing
        return self._finish(note)

    def _erase_from_dataset(self, domain: str, label: str, instead_of: FacedexError) -> Receipt:
        """Of a domain that the database does not know. There is no note: who gets no receipt asks again.

        Raises: `instead_of`, where the dataset does not know them either.
        """
        domain, label = clean_name(domain, "domain name"), clean_name(label, "label")
        switched_off = isinstance(instead_of, DatabaseDisabled)
        if not current_reach().includes(domain) or not (switched_off or self._datasets.names(domain, label)):
            raise instead_of
        removed = self._datasets.erase_person(domain, [label])
        if not removed:
            raise instead_of
        receipt_id = uuid4()
        if not switched_off:
            with self._database.transaction() as session:
                record(session, "dataset.person_erased", domain_id=None, receipt=str(receipt_id), dataset_rows=removed)
        return Receipt(
            id=receipt_id,
            domain=domain,
            person_id=None,
            erased_at=datetime.now(UTC),
            requested_by=current_reach().client,
            request_id=request_id(),
            counts={Dataset.place: removed},
            unfinished=(),
            remains=((IN_SWITCHED_OFF_DATABASE,) if switched_off else ()) + (IN_BACKUPS,),
        )

    def _threshold(self, model: str) -> float:
        try:
            return self._packs.get(model).manifest.calibration.threshold
        except FacedexError:
            return _SAME


def _written_names(person: Person, others: frozenset[str]) -> list[str]:
    """What files of imports, and sessions, may call the person; `others` are labels that are somebody else's by now."""
    labels = [person.label, *(label for label in person.former_labels if label not in others)]
    return [
        *labels,
        *([person.external_id] if person.external_id else []),
        str(person.id),
        *map(str, person.former_ids),
    ]
