"""Faces of a person: enrol pictures, list, delete."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import structlog
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from app.audit import record
from app.config import Settings
from app.db.domains import DomainKey, lock_domain, raise_cache_epoch
from app.db.idempotency import Claim, face_of, keep_face
from app.db.models import Domain, FaceEmbedding, Person
from app.db.session import Database
from app.db.templates import delete_template
from app.deadline import Deadline
from app.embedder.batch import pictures_at_once
from app.enrolment.images import ImageStore
from app.enrolment.lookup import PersonInfo, find_domain, find_person, find_person_or_none, read_person
from app.enrolment.persons import add_person
from app.enrolment.quality import Grade, QualityScale, check_quality, main_face
from app.enrolment.resemblance import Resemblance
from app.enrolment.storing import known_face, known_picture, store_face
from app.errors import (
    DatabaseError,
    DuplicateFace,
    EmbedderError,
    EmptyUpload,
    FacedexError,
    FaceNotFound,
    InvalidRequest,
    PersonNotFound,
    StorageError,
    UploadTooLarge,
)
from app.face_cache.cached import CachedEmbedder
from app.names import as_uuid, clean_name
from app.pages import Page, decode_cursor, encode_cursor
from app.tenancy import carried
from app.vision.faces import Box, Face
from app.vision.packs import PackManifest, PackStore

log = structlog.stdlib.get_logger("facedex.enrolment")

Settle = Callable[[Session, UUID], None]
"""Notes, in the transaction that stores a face, that it does."""


@dataclass(frozen=True, slots=True)
class EnrolledFace:
    """A stored template.

    Attributes:
        image_sha256: hexadecimal; None where its picture was never seen.
        has_image: whether its picture was kept.
        grade: what it is worth, by the bounds of now.
        warnings: what was noticed when it was enrolled; empty in lists.
    """

    id: UUID
    box: Box
    score: float
    sharpness: float
    image_sha256: str | None
    created_at: datetime
    has_image: bool = False
    grade: Grade = Grade.UNKNOWN
    warnings: tuple[Resemblance, ...] = ()


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file: `face` where it was enrolled, else `error`."""

    file: str
    face: EnrolledFace | None = None
    error: FacedexError | None = None

    @property
    def rejected(self) -> bool:
        """Whether sending it again would change nothing: the picture, or the domain, is the reason."""
        return self.error is not None and not isinstance(self.error, EmbedderError | DatabaseError | StorageError)


@dataclass(frozen=True, slots=True)
class EnrolmentResult:
    """The outcomes in the order of the files; `person` is None where none exists, because nothing was enrolled."""

    person: PersonInfo | None
    outcomes: tuple[FileOutcome, ...]


class FaceService:
    """The operations on faces. `label` in the arguments is a label, an external id or an id, in this order."""

    def __init__(
        self, settings: Settings, database: Database, embedder: CachedEmbedder, packs: PackStore, images: ImageStore
    ) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._packs = packs
        self._images = images

    def enrol(
        self,
        domain: str,
        label: str,
        files: Sequence[tuple[str, bytes]],
        *,
        client: str,
        request_id: str = "",
        claim: Claim | None = None,
    ) -> EnrolmentResult:
        """Enrol the main face of each picture as a template of the person, who is created with the first success.

        Each file is stored in a transaction of its own: one that fails does not touch the others.

        Args:
            files: the client's name for each file, and its bytes.
            client: who enrols: the pool serves its clients in turn.
            request_id: for the pool's log.
            claim: the request where it may be a repetition: a file that it has enrolled before is answered as enrolled.

        Raises:
            InvalidName: the label cannot be kept.
            DomainNotFound: no such domain.
            DatabaseError: before anything was stored.
        """
        label = clean_name(label, "label")
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            domain_id, key = found.id, DomainKey.of(found)

        def enrol_one(file: tuple[str, bytes]) -> FileOutcome:
            name, data = file
            try:
                return FileOutcome(name, face=self._enrol_file(domain_id, key, label, data, client, request_id, claim))
            except FacedexError as error:
                log.info(f"[ENROL] Not enrolled: {error.code}", request_id=request_id)
                return FileOutcome(name, error=error)

        # A picture that is there twice is looked at once: which of the two became the face must not be chance.
        digests = [hashlib.sha256(data).digest() for _, data in files]
        distinct: dict[bytes, tuple[str, bytes]] = {}
        for digest, file in zip(digests, files, strict=True):
            distinct.setdefault(digest, file)
        with ThreadPoolExecutor(max_workers=pictures_at_once(self._settings, len(distinct))) as threads:
            first = dict(zip(distinct, threads.map(carried(enrol_one), distinct.values()), strict=True))
        return EnrolmentResult(self._person_or_none(domain_id, label), _in_order(files, digests, first))

    def enrol_file(
        self,
        domain: str,
        label: str,
        data: bytes,
        *,
        client: str,
        request_id: str = "",
        settle: Settle,
    ) -> EnrolledFace:
        """Enrol one picture of a job, in one transaction with what the job notes of it.

        Args:
            client, request_id: as of `enrol`.
            settle: called with the transaction and the face's id, under the domain's lock; what it raises undoes all.

        Raises:
            FacedexError: why it was not enrolled, as `FileOutcome.error`.
        """
        label = clean_name(label, "label")
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            domain_id, key = found.id, DomainKey.of(found)
        return self._enrol_file(domain_id, key, label, data, client, request_id, None, settle)

    def list(self, domain: str, label: str, *, limit: int, cursor: str | None) -> Page[EnrolledFace]:
        """A person's faces, oldest first.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            InvalidRequest: the cursor is not one of ours.
        """
        with self._database.transaction() as session:
            found_domain = find_domain(session, domain)
            domain_id, uid = found_domain.id, found_domain.uid
            scale = QualityScale.of(self._settings, self._packs, found_domain.model)
            person = find_person(session, domain_id, label)
            order = (FaceEmbedding.created_at, FaceEmbedding.id)
            query = select(FaceEmbedding).where(
                FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id
            )
            if cursor is not None:
                query = query.where(tuple_(*order) > tuple_(*_face_key(cursor)))
            rows = session.scalars(query.order_by(*order).limit(limit + 1))
            found = [_info(row, scale, has_image=self._images.find(uid, person.id, row.id) is not None) for row in rows]
        more = len(found) > limit
        last = found[limit - 1] if more else None
        return Page(found[:limit], encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None)

    def delete(self, domain: str, label: str, face_id: str) -> None:
        """Delete one face of a person.

        Raises:
            DomainNotFound, PersonNotFound, FaceNotFound: as their names say.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            lock_domain(session, found.id)
            person = find_person(session, found.id, label)
            wanted = _face_id(face_id)
            if not delete_template(session, found.id, person.id, wanted):
                raise _no_such_face()
            raise_cache_epoch(session, found.id)
            record(session, "face.deleted", domain_id=found.id, persons=[person.id], face=str(wanted))
            picture = self._images.path(found.uid, person.id, wanted)
        self._database.once_committed(lambda: self._images.discard(picture))

    def picture(self, domain: str, label: str, face_id: str) -> Path:
        """The file of an enrolled face's picture, where it was kept.

        Raises:
            DomainNotFound, PersonNotFound, FaceNotFound: as their names say; also where no picture was kept.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            person = find_person(session, found.id, label)
            face = session.get(FaceEmbedding, (found.id, _face_id(face_id)))
        path = self._images.find(found.uid, person.id, face.id) if face and face.person_id == person.id else None
        if path is None:
            raise FaceNotFound("This person has no face of that id whose picture was kept.")
        return path

    def enrolled_digests(self, domain: str, label: str) -> set[str]:
        """SHA-256, in hexadecimal, of the pictures that a person has; empty where there is no such person.

        Raises:
            DomainNotFound: no such domain.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            person = find_person_or_none(session, domain_id, label)
            if person is None:
                return set()
            query = select(FaceEmbedding.image_sha256).where(
                FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id
            )
            return {digest.hex() for digest in session.scalars(query) if digest is not None}

    def _enrol_file(
        self,
        domain_id: int,
        key: DomainKey,
        label: str,
        data: bytes,
        client: str,
        request_id: str,
        claim: Claim | None,
        settle: Settle | None = None,
    ) -> EnrolledFace:
        if not data:
            raise EmptyUpload("The file is empty.")
        if len(data) > self._settings.max_upload_bytes:
            raise UploadTooLarge(f"The file is longer than {self._settings.max_upload_bytes} bytes.")
        digest, domain_uid = hashlib.sha256(data).digest(), key.uid
        with self._database.transaction() as session:
            # In this order: a repetition at the same time commits face and note together, so who sees the face sees the note.
            known = _is_known_picture(session, domain_id, find_person_or_none(session, domain_id, label), digest)
            if (done := self._done_before(session, claim, domain_id, domain_uid, digest)) is not None:
                return done
            if known:
                raise known_picture()
        deadline = Deadline.after(self._settings.request_deadline_s)
        job = settle is not None  # nobody waits for it; nor would so many pictures do the cache any good
        analysis = self._embedder.analyze(
            data,
            epoch=None if job else key,
            deadline=deadline,
            request_id=request_id,
            client=client,
            background=job,
        )
        manifest = self._packs.get(analysis.model).manifest
        face = main_face(analysis)
        check_quality(face, min_face_px=self._settings.enrol_min_face_px, min_sharpness=manifest.min_sharpness)
        # In this order: a transaction that cannot commit takes the picture along.
        with self._images.staged(domain_uid, data) as picture, self._database.transaction() as session:
            domain = lock_domain(session, domain_id, contract=analysis.contract)
            # By a repetition at the same time.
            if (done := self._done_before(session, claim, domain_id, domain_uid, digest)) is not None:
                picture.discard()
                return done
            face_id = uuid4()
            if settle is not None:
                settle(session, face_id)
            template, warnings = _store(session, self._settings, domain, label, face, digest, manifest, face_id)
            if claim is not None:
                keep_face(session, claim, digest, domain_id, template.id)
            picture.place(template.person_id, template.id)
            scale = QualityScale(self._settings.enrol_min_face_px, manifest.min_sharpness)
            return replace(_info(template, scale, has_image=picture.path is not None), warnings=warnings)

    def _done_before(
        self, session: Session, claim: Claim | None, domain_id: int, domain_uid: UUID, digest: bytes
    ) -> EnrolledFace | None:
        """The face that this request made of the picture, when it was sent before."""
        face_id = None if claim is None else face_of(session, claim, digest)
        if face_id is None:
            return None
        row = session.get(FaceEmbedding, (domain_id, face_id))
        if row is None:
            raise FaceNotFound("The face was enrolled by this request, and deleted since.")
        scale = QualityScale.of(self._settings, self._packs, session.get_one(Domain, domain_id).model)
        return _info(row, scale, has_image=self._images.find(domain_uid, row.person_id, row.id) is not None)

    def _person_or_none(self, domain_id: int, label: str) -> PersonInfo | None:
        try:
            with self._database.transaction() as session:
                return read_person(session, domain_id, label)
        except (PersonNotFound, DatabaseError):
            # The files' outcomes are known; they are worth more than the person's line.
            return None


def _in_order(
    files: Sequence[tuple[str, bytes]], digests: Sequence[bytes], first: Mapping[bytes, FileOutcome]
) -> tuple[FileOutcome, ...]:
    """The outcomes in the order of the files; a picture that was there before is a duplicate, or failed as that one did."""
    outcomes: list[FileOutcome] = []
    seen: set[bytes] = set()
    for (name, _), digest in zip(files, digests, strict=True):
        outcome = first[digest]
        if digest in seen and outcome.face is not None:
            outcome = FileOutcome(name, error=DuplicateFace("This very picture is in the request twice."))
        outcomes.append(replace(outcome, file=name))
        seen.add(digest)
    return tuple(outcomes)


def _store(
    session: Session,
    settings: Settings,
    domain: Domain,
    label: str,
    face: Face,
    digest: bytes,
    manifest: PackManifest,
    face_id: UUID,
) -> tuple[FaceEmbedding, tuple[Resemblance, ...]]:
    """Store one template of whoever has that label, or will have, under the domain's lock, which the caller holds."""
    person = find_person_or_none(session, domain.id, label)
    if new := person is None:
        person = add_person(session, domain.id, label, label)
    return store_face(session, settings, domain, person, face, digest, manifest, face_id=face_id, new_person=new)


def _is_known_picture(session: Session, domain_id: int, person: Person | None, digest: bytes) -> bool:
    return person is not None and known_face(session, domain_id, person.id, digest) is not None


def _face_id(text: str) -> UUID:
    if (face_id := as_uuid(text)) is None:
        raise _no_such_face()
    return face_id


def _no_such_face() -> FaceNotFound:
    return FaceNotFound("This person has no face of that id.")


def _face_key(cursor: str) -> tuple[datetime, UUID]:
    created_at, face_id = decode_cursor(cursor, 2)
    try:
        return datetime.fromisoformat(created_at), UUID(face_id)
    except ValueError:
        raise InvalidRequest("The cursor is not one that this service gave.") from None


def _info(row: FaceEmbedding, scale: QualityScale, *, has_image: bool) -> EnrolledFace:
    return EnrolledFace(
        id=row.id,
        box=Box(row.box_x, row.box_y, row.box_w, row.box_h),
        score=row.score,
        sharpness=row.sharpness,
        image_sha256=row.image_sha256.hex() if row.image_sha256 else None,
        created_at=row.created_at,
        has_image=has_image,
        grade=scale.grade(min(row.box_w, row.box_h), row.sharpness),
    )
