"""Faces of a person: enrol pictures, list, delete."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from app.config import Settings
from app.db.domains import lock_domain
from app.db.models import FaceEmbedding, Person
from app.db.session import Database
from app.db.templates import NewTemplate, delete_template, insert_templates
from app.deadline import Deadline
from app.embedder.batch import pictures_at_once
from app.embedder.client import EmbedderClient
from app.enrolment.lookup import find_domain
from app.enrolment.pages import Page, decode_cursor, encode_cursor
from app.enrolment.persons import PersonInfo, add_person, find_person, read_person
from app.enrolment.quality import check_quality, main_face
from app.errors import (
    DatabaseError,
    DuplicateFace,
    EmbedderError,
    EmptyUpload,
    FacedexError,
    FaceNotFound,
    InvalidRequest,
    PersonNotFound,
    UploadTooLarge,
)
from app.names import clean_name
from app.vision.faces import Box, Face
from app.vision.packs import PackManifest, PackStore

log = structlog.stdlib.get_logger("facedex.enrolment")

# The same photo saved again, at another size or quality, is nearer to itself than this share of the pack's threshold; two
# photos of one person hardly ever are.
_SAME_PHOTO_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class EnrolledFace:
    """A stored template; `image_sha256` is hexadecimal, None where its picture was never seen."""

    id: UUID
    box: Box
    score: float
    sharpness: float
    image_sha256: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file: `face` where it was enrolled, else `error`."""

    file: str
    face: EnrolledFace | None = None
    error: FacedexError | None = None

    @property
    def rejected(self) -> bool:
        """Whether sending it again would change nothing: the picture, or the domain, is the reason."""
        return self.error is not None and not isinstance(self.error, EmbedderError | DatabaseError)


@dataclass(frozen=True, slots=True)
class EnrolmentResult:
    """The outcomes in the order of the files; `person` is None where none exists, because nothing was enrolled."""

    person: PersonInfo | None
    outcomes: tuple[FileOutcome, ...]


class FaceService:
    """The operations on faces. `label` in the arguments is a label or, where nobody has that label, an id."""

    def __init__(self, settings: Settings, database: Database, embedder: EmbedderClient, packs: PackStore) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._packs = packs

    def enrol(
        self, domain: str, label: str, files: Sequence[tuple[str, bytes]], *, client: str, request_id: str = ""
    ) -> EnrolmentResult:
        """Enrol the main face of each picture as a template of the person, who is created with the first success.

        Each file is stored in a transaction of its own: one that fails does not touch the others.

        Args:
            files: the client's name for each file, and its bytes.
            client: who enrols: the pool serves its clients in turn.
            request_id: for the pool's log.

        Raises:
            InvalidName: the label cannot be kept.
            DomainNotFound: no such domain.
            DatabaseError: before anything was stored.
        """
        label = clean_name(label, "label")
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id

        def enrol_one(file: tuple[str, bytes]) -> FileOutcome:
            name, data = file
            try:
                return FileOutcome(name, face=self._enrol_file(domain_id, label, data, client, request_id))
            except FacedexError as error:
                log.info(f"[ENROL] Not enrolled: {error.code}", request_id=request_id)
                return FileOutcome(name, error=error)

        with ThreadPoolExecutor(max_workers=pictures_at_once(self._settings, len(files))) as threads:
            outcomes = tuple(threads.map(enrol_one, files))
        return EnrolmentResult(self._person_or_none(domain_id, label), outcomes)

    def list(self, domain: str, label: str, *, limit: int, cursor: str | None) -> Page[EnrolledFace]:
        """A person's faces, oldest first.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            InvalidRequest: the cursor is not one of ours.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            person = find_person(session, domain_id, label)
            order = (FaceEmbedding.created_at, FaceEmbedding.id)
            query = select(FaceEmbedding).where(
                FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id
            )
            if cursor is not None:
                query = query.where(tuple_(*order) > tuple_(*_face_key(cursor)))
            found = [_info(row) for row in session.scalars(query.order_by(*order).limit(limit + 1))]
        more = len(found) > limit
        last = found[limit - 1] if more else None
        return Page(found[:limit], encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None)

    def delete(self, domain: str, label: str, face_id: str) -> None:
        """Delete one face of a person.

        Raises:
            DomainNotFound, PersonNotFound, FaceNotFound: as their names say.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            person = find_person(session, domain_id, label)
            try:
                wanted = UUID(face_id)
            except ValueError:
                raise FaceNotFound("This person has no face of that id.") from None
            if not delete_template(session, domain_id, person.id, wanted):
                raise FaceNotFound("This person has no face of that id.")

    def enrolled_digests(self, domain: str, label: str) -> set[str]:
        """SHA-256, in hexadecimal, of the pictures that a person has; empty where there is no such person.

        Raises:
            DomainNotFound: no such domain.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            try:
                person = find_person(session, domain_id, label)
            except PersonNotFound:
                return set()
            query = select(FaceEmbedding.image_sha256).where(
                FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id
            )
            return {digest.hex() for digest in session.scalars(query) if digest is not None}

    def _enrol_file(self, domain_id: int, label: str, data: bytes, client: str, request_id: str) -> EnrolledFace:
        if not data:
            raise EmptyUpload("The file is empty.")
        if len(data) > self._settings.max_upload_bytes:
            raise UploadTooLarge(f"The file is longer than {self._settings.max_upload_bytes} bytes.")
        digest = hashlib.sha256(data).digest()
        with self._database.transaction() as session:
            _refuse_known_picture(session, domain_id, _find_or_none(session, domain_id, label), digest)
        deadline = Deadline.after(self._settings.request_deadline_s)
        analysis = self._embedder.analyze(data, deadline=deadline, request_id=request_id, client=client)
        manifest = self._packs.get(analysis.model).manifest
        face = main_face(analysis)
        check_quality(face, min_face_px=self._settings.enrol_min_face_px, min_sharpness=manifest.min_sharpness)
        with self._database.transaction() as session:
            lock_domain(session, domain_id, contract=analysis.contract)
            return _store(session, domain_id, label, face, digest, manifest)

    def _person_or_none(self, domain_id: int, label: str) -> PersonInfo | None:
        try:
            with self._database.transaction() as session:
                return read_person(session, domain_id, label)
        except (PersonNotFound, DatabaseError):
            # The files' outcomes are known; they are worth more than the person's line.
            return None


def _store(
    session: Session, domain_id: int, label: str, face: Face, digest: bytes, manifest: PackManifest
) -> EnrolledFace:
    """Store one template, under the domain's lock, which the caller holds."""
    assert face.embedding is not None
    person = _find_or_none(session, domain_id, label)
    _refuse_known_picture(session, domain_id, person, digest)
    if person is None:
        person = add_person(session, domain_id, label, label)
    nearest = session.scalar(
        select(FaceEmbedding.embedding.cosine_distance(face.embedding).label("distance"))
        .where(FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id)
        .order_by("distance")
        .limit(1)
    )
    if nearest is not None and nearest < _SAME_PHOTO_SHARE * manifest.calibration.threshold:
        raise DuplicateFace("The same photo of this person is enrolled already, in another encoding.")
    template = NewTemplate(
        person_id=person.id,
        embedding=face.embedding,
        image_sha256=digest,
        box=face.box,
        score=face.score,
        sharpness=face.quality.sharpness,
    )
    insert_templates(session, domain_id, [template])
    return _info(session.get_one(FaceEmbedding, (domain_id, template.id)))


def _find_or_none(session: Session, domain_id: int, label: str) -> Person | None:
    try:
        return find_person(session, domain_id, label)
    except PersonNotFound:
        return None


def _refuse_known_picture(session: Session, domain_id: int, person: Person | None, digest: bytes) -> None:
    if person is None:
        return
    query = select(FaceEmbedding.id).where(
        FaceEmbedding.domain_id == domain_id,
        FaceEmbedding.image_sha256 == digest,
        FaceEmbedding.person_id == person.id,
    )
    if session.scalars(query).first() is not None:
        raise DuplicateFace("This very picture of this person is enrolled already.")


def _face_key(cursor: str) -> tuple[datetime, UUID]:
    created_at, face_id = decode_cursor(cursor, 2)
    try:
        return datetime.fromisoformat(created_at), UUID(face_id)
    except ValueError:
        raise InvalidRequest("The cursor is not one that this service gave.") from None


def _info(row: FaceEmbedding) -> EnrolledFace:
    return EnrolledFace(
        id=row.id,
        box=Box(row.box_x, row.box_y, row.box_w, row.box_h),
        score=row.score,
        sharpness=row.sharpness,
        image_sha256=row.image_sha256.hex() if row.image_sha256 else None,
        created_at=row.created_at,
    )
