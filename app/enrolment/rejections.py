"""Faces that were taken for a person and are not theirs: "not this person".

What a rejection does stands in `app/db/vectors.py`: the person is no candidate for a probe that is nearer to it than to any of
their templates.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Select, delete, func, select, tuple_
from sqlalchemy.orm import Session, defer

from app.audit import record
from app.config import Settings
from app.db.domains import DomainKey, lock_domain
from app.db.models import Domain, FaceRejection, Person
from app.db.neighbours import distance_to_person
from app.db.session import Database
from app.db.templates import unit_vectors
from app.deadline import Deadline
from app.enrolment.lookup import PersonRef, find_domain, find_person
from app.enrolment.quality import is_same_photo, main_face
from app.errors import (
    FaceEnrolled,
    InvalidEmbedding,
    InvalidRequest,
    NoFaceFound,
    RejectionNotFound,
    SamePerson,
    TooManyRejections,
)
from app.face_cache.cached import CachedEmbedder
from app.names import as_uuid
from app.pages import Page, decode_cursor, encode_cursor
from app.vision.faces import Analysis, Face, Float32Array
from app.vision.packs import PackStore

MAX_REJECTIONS_PER_PERSON: Final = 1_000


@dataclass(frozen=True, slots=True)
class RejectionRequest:
    """A face that is not a person's.

    Attributes:
        image: the file's bytes.
        domain, label: the person whose face it is not; a label, an external id or an id, in this order.
        face: which face of the picture, in the order of a recognition's answer; None is the main one.
        actual: whose it is, likewise; None where that is not said.
        deadline, request_id, client: as of a recognition.
    """

    image: bytes
    domain: str
    label: str
    face: int | None
    actual: str | None
    deadline: Deadline
    request_id: str
    client: str


@dataclass(frozen=True, slots=True, eq=False)
class RejectedFace:
    """The face that is meant: its number in the picture, the contract of its embedding, the threshold of the model pack."""

    number: int
    face: Face
    contract: str
    threshold: float


@dataclass(frozen=True, slots=True)
class RejectionInfo:
    """A stored rejection.

    Attributes:
        face: which of the picture's faces.
        image_sha256: hexadecimal.
        actual: whose face it is, where that was said.
        created_by: the client.
    """

    id: UUID
    face: int
    image_sha256: str
    actual: PersonRef | None
    created_by: str
    created_at: datetime


class RejectionService:
    """The operations on rejections."""

    def __init__(self, settings: Settings, database: Database, embedder: CachedEmbedder, packs: PackStore) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._packs = packs

    def look(self, request: RejectionRequest) -> RejectedFace:
        """Find the face that is meant; nothing is stored.

        Raises:
            DomainNotFound, PersonNotFound: as their names say; of `actual` too.
            SamePerson: `actual` is the person.
            NoFaceFound: no face, or none of that number.
            SeveralFaces: no number, and none of them is clearly the main one.
            ImageError, EmbedderError, DatabaseError: as their names say.
        """
        with self._database.transaction() as session:  # before it costs a worker
            domain = find_domain(session, request.domain)
            _find_both(session, domain.id, request)
        analysis = self._embedder.analyze(
            request.image,
            epoch=DomainKey.of(domain),
            deadline=request.deadline,
            request_id=request.request_id,
            client=request.client,
        )
        number, face = _chosen(analysis, request.face)
        threshold = self._packs.get(analysis.model).manifest.calibration.threshold
        return RejectedFace(number, face, analysis.contract, threshold)

    def add(self, request: RejectionRequest, seen: RejectedFace) -> tuple[RejectionInfo, bool]:
        """Remember that the face is not the person's. Said again, it changes nothing but `actual`.

        Returns:
            The rejection, and whether it is new.

        Raises:
            DomainNotFound, PersonNotFound, SamePerson: as `look`.
            FaceEnrolled: this picture, or another encoding of the same photo, is enrolled as this person.
            TooManyRejections: there are `MAX_REJECTIONS_PER_PERSON`.
            ContractMismatch: the domain's templates are another model's.
            DatabaseError: as its name says.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, request.domain).id
            domain = lock_domain(session, domain_id, contract=seen.contract)
            person, actual = _find_both(session, domain_id, request)
            rejection = FaceRejection(
                domain_id=domain_id,
                person_id=person.id,
                actual_person_id=actual and actual.id,
                image_sha256=hashlib.sha256(request.image).digest(),
                face=seen.number,
                created_by=request.client,
                embedding=_unit(seen.face, domain),
            )
            return _add(session, rejection, seen.threshold)

    def list(self, domain: str, label: str, *, limit: int, cursor: str | None) -> Page[RejectionInfo]:
        """What was rejected for a person, oldest first.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            InvalidRequest: the cursor is not one of ours.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            person = find_person(session, domain_id, label)
            order = (FaceRejection.created_at, FaceRejection.id)
            query = _with_actual().where(FaceRejection.domain_id == domain_id, FaceRejection.person_id == person.id)
            if cursor is not None:
                query = query.where(tuple_(*order) > tuple_(*_key(cursor)))
            found = [_info(*row) for row in session.execute(query.order_by(*order).limit(limit + 1))]
        more = len(found) > limit
        last = found[limit - 1] if more else None
        return Page(found[:limit], encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None)

    def delete(self, domain: str, label: str, rejection_id: str) -> None:
        """Forget that a face is not the person's.

        Raises:
            DomainNotFound, PersonNotFound, RejectionNotFound: as their names say.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            person = find_person(session, domain_id, label)
            gone = session.scalars(
                delete(FaceRejection)
                .where(
                    FaceRejection.domain_id == domain_id,
                    FaceRejection.person_id == person.id,
                    FaceRejection.id == as_uuid(rejection_id),
                )
                .returning(FaceRejection.id)
            ).all()
            if not gone:
                raise RejectionNotFound("No face of that id was rejected for this person.")
            record(session, "rejection.deleted", domain_id=domain_id, persons=[person.id], rejection=str(gone[0]))


def _find_both(session: Session, domain_id: int, request: RejectionRequest) -> tuple[Person, Person | None]:
    person = find_person(session, domain_id, request.label)
    actual = None if request.actual is None else find_person(session, domain_id, request.actual)
    if actual is not None and actual.id == person.id:
        raise SamePerson("A face cannot be rejected for a person and be that person's: 'actual' is the same person.")
    return person, actual


def _chosen(analysis: Analysis, number: int | None) -> tuple[int, Face]:
    if number is None:
        face = main_face(analysis)
        return next(n for n, other in enumerate(analysis.faces) if other is face), face
    if number >= len(analysis.faces):
        raise NoFaceFound(f"The picture has {len(analysis.faces)} faces; they are numbered from 0.")
    return number, analysis.faces[number]


def _unit(face: Face, domain: Domain) -> Float32Array:
    if face.embedding is None:
        raise InvalidEmbedding("The pool gave no embedding.")
    unit: Float32Array = unit_vectors([face.embedding], domain.dimension)[0]
    return unit


def _add(session: Session, rejection: FaceRejection, threshold: float) -> tuple[RejectionInfo, bool]:
    """Store it under the domain's lock, which the caller holds, unless it is there already."""
    before = _said_before(session, rejection, threshold)
    if before is None:
        _refuse_enrolled(session, rejection, threshold)
        _refuse_too_many(session, rejection)
        session.add(rejection)
    elif rejection.actual_person_id in (None, before.actual_person_id):
        return _read(session, before), False
    else:
        before.actual_person_id = rejection.actual_person_id
    session.flush()
    kept = before or rejection
    info = _read(session, kept)
    record(
        session,
        "rejection.added" if before is None else "rejection.changed",
        domain_id=kept.domain_id,
        persons=[item for item in (kept.person_id, kept.actual_person_id) if item is not None],
        rejection=str(kept.id),
    )
    return info, before is None


def _said_before(session: Session, rejection: FaceRejection, threshold: float) -> FaceRejection | None:
    """The rejection of the same face, of this picture or of another encoding of it."""
    same = (FaceRejection.image_sha256 == rejection.image_sha256) & (FaceRejection.face == rejection.face)
    distance = FaceRejection.embedding.cosine_distance(rejection.embedding).label("distance")
    query = (
        select(FaceRejection, same, distance)
        .where(FaceRejection.domain_id == rejection.domain_id, FaceRejection.person_id == rejection.person_id)
        .order_by(same.desc(), distance)
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    return row[0] if row is not None and (row[1] or is_same_photo(row[2], threshold)) else None


def _refuse_enrolled(session: Session, rejection: FaceRejection, threshold: float) -> None:
    """A face that is enrolled as the person, in this file or in another encoding: it would hide them from their own photo."""
    nearest = distance_to_person(session, rejection.domain_id, rejection.person_id, rejection.embedding)
    if nearest is not None and is_same_photo(nearest, threshold):
        raise FaceEnrolled("This photo is enrolled as this person: delete that face instead.")


def _refuse_too_many(session: Session, rejection: FaceRejection) -> None:
    query = select(func.count()).where(
        FaceRejection.domain_id == rejection.domain_id, FaceRejection.person_id == rejection.person_id
    )
    if (session.scalar(query) or 0) >= MAX_REJECTIONS_PER_PERSON:
        raise TooManyRejections(f"{MAX_REJECTIONS_PER_PERSON} faces were rejected for this person; no more are kept.")


def _key(cursor: str) -> tuple[datetime, UUID]:
    created_at, rejection_id = decode_cursor(cursor, 2)
    try:
        return datetime.fromisoformat(created_at), UUID(rejection_id)
    except ValueError:
        raise InvalidRequest("The cursor is not one that this service gave.") from None


def _with_actual() -> Select[FaceRejection, Person | None]:
    return (
        select(FaceRejection, Person)
        .outerjoin(
            Person, (Person.domain_id == FaceRejection.domain_id) & (Person.id == FaceRejection.actual_person_id)
        )
        .options(defer(FaceRejection.embedding))
    )


def _read(session: Session, row: FaceRejection) -> RejectionInfo:
    session.refresh(row, ["created_at", "id"])
    query = _with_actual().where(FaceRejection.domain_id == row.domain_id, FaceRejection.id == row.id)
    return _info(*session.execute(query).one())


def _info(row: FaceRejection, actual: Person | None) -> RejectionInfo:
    return RejectionInfo(
        id=row.id,
        face=row.face,
        image_sha256=row.image_sha256.hex(),
        actual=None if actual is None else PersonRef.of(actual),
        created_by=row.created_by,
        created_at=row.created_at,
    )
