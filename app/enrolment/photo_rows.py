"""Reference photos into the database: what may be a picture, what the person has already, and the job for the rest."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, func, select, update
from sqlalchemy.orm import Session

from app.audit import record
from app.db.jobs import enqueue
from app.db.models import FaceEmbedding, Person
from app.db.references import (
    EXTRACTED,
    FAILED,
    WAITING,
    PhotoInfo,
    photo_of,
    runs_still,
    select_photos,
)
from app.db.work_models import ReferencePhoto
from app.enrolment.lookup import PersonInfo, read
from app.errors import EmptyUpload, FacedexError, TooManyReferencePhotos, UploadTooLarge
from app.vision.formats import check_header

JOB_KIND: Final = "reference_photo"
MAX_PHOTOS_PER_PERSON: Final = 100


@dataclass(frozen=True, slots=True)
class AddedPhotos:
    """What was stored.

    Attributes:
        person: whose photos they are.
        photos: one for each picture, in their order.
        job_id: the job that extracts what is to be extracted; None where nothing is.
    """

    person: PersonInfo
    photos: tuple[PhotoInfo, ...]
    job_id: UUID | None


def checked_pictures(uploads: Sequence[tuple[str, bytes]], *, max_bytes: int) -> dict[bytes, bytes]:
    """The uploaded pictures by SHA-256, in order; by their first bytes they are pictures.

    Raises:
        EmptyUpload, UploadTooLarge, InvalidImage, UnsupportedImage: one cannot be a picture; the message names it.
    """
    pictures: dict[bytes, bytes] = {}
    for name, data in uploads:
        try:
            if not data:
                raise EmptyUpload("The file is empty.")
            if len(data) > max_bytes:
                raise UploadTooLarge(f"The file is longer than {max_bytes} bytes.")
            check_header(data)
        except FacedexError as error:
            if len(uploads) == 1:
                raise
            raise type(error)(f"{name!r}: {error}") from None
        pictures[hashlib.sha256(data).digest()] = data
    return pictures


def add_photos(session: Session, person: Person, pictures: dict[bytes, bytes], request_id: str | None) -> AddedPhotos:
    """Keep photos of a person, and enqueue the job that extracts them, in the caller's transaction, under the domain's lock.

    Args:
        pictures: by SHA-256, in the order in which they were sent.
        request_id: of the request.

    Raises:
        TooManyReferencePhotos: the person would have more than `MAX_PHOTOS_PER_PERSON`.
    """
    owned = (ReferencePhoto.domain_id == person.domain_id, ReferencePhoto.person_id == person.id)
    known = {row.image_sha256: row for row in session.execute(_select_known(*owned))}
    new = [digest for digest in pictures if digest not in known]
    if len(known) + len(new) > MAX_PHOTOS_PER_PERSON:
        raise TooManyReferencePhotos(f"A person has at most {MAX_PHOTOS_PER_PERSON} reference photos.")
    again = [digest for digest in pictures if digest in known and not known[digest].settled]
    job_id = None
    if new or again:
        job_id = enqueue(
            session,
            JOB_KIND,
            domain_id=person.domain_id,
            person_id=person.id,
            total=len(new) + len(again),
            request_id=request_id,
        )
    for digest in new:
        session.add(
            ReferencePhoto(
                domain_id=person.domain_id,
                person_id=person.id,
                image_sha256=digest,
                picture=pictures[digest],
                job_id=job_id,
                created_at=func.clock_timestamp(),  # in the order in which they were sent
            )
        )
        session.flush()
    for digest in again:
        _renew(session, person.domain_id, known[digest].id, pictures[digest], job_id)
    rows = session.execute(select_photos(person.domain_id).where(*owned))
    stored = {photo.image_sha256: photo for photo in map(photo_of, rows)}
    if job_id is not None:
        record(
            session,
            "reference_photo.added",
            domain_id=person.domain_id,
            persons=[person.id],
            photos=len(new) + len(again),
            job=str(job_id),
        )
    return AddedPhotos(read(session, person), tuple(stored[digest.hex()] for digest in pictures), job_id)


def _select_known(*owned: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """The photos that a person has, each with whether there is nothing left to do for it."""
    face = and_(FaceEmbedding.domain_id == ReferencePhoto.domain_id, FaceEmbedding.id == ReferencePhoto.face_id)
    settled = case(
        (ReferencePhoto.state == WAITING, runs_still()),
        (ReferencePhoto.state == EXTRACTED, FaceEmbedding.id.is_not(None)),
        else_=False,
    )
    query = select(ReferencePhoto.id, ReferencePhoto.image_sha256, settled.label("settled"))
    return query.join(FaceEmbedding, face, isouter=True).where(*owned)


def _renew(session: Session, domain_id: int, photo_id: UUID, picture: bytes, job_id: UUID | None) -> None:
    """Have a photo extracted that was sent once more."""
    session.execute(
        update(ReferencePhoto)
        .where(ReferencePhoto.domain_id == domain_id, ReferencePhoto.id == photo_id)
        .values(_ANEW | {"picture": picture, "job_id": job_id}),
        execution_options={"synchronize_session": False},
    )


def wait_again(session: Session, domain_id: int, *which: ColumnElement[bool]) -> None:
    """Have those tried once more that have failed."""
    session.execute(
        update(ReferencePhoto)
        .where(ReferencePhoto.domain_id == domain_id, ReferencePhoto.state == FAILED, *which)
        .values(_ANEW),
        execution_options={"synchronize_session": False},
    )


def take_up(session: Session, person: Person, request_id: str | None) -> UUID | None:
    """Enqueue a job for those of a person's photos that wait without one that runs, in the caller's transaction.

    Returns:
        the job's id; None where there are no such photos.
    """
    idle = (
        ReferencePhoto.domain_id == person.domain_id,
        ReferencePhoto.person_id == person.id,
        ReferencePhoto.state == WAITING,
        ~runs_still(),
    )
    photos = session.scalars(select(ReferencePhoto.id).where(*idle)).all()
    if not photos:
        return None
    job_id = enqueue(
        session,
        JOB_KIND,
        domain_id=person.domain_id,
        person_id=person.id,
        total=len(photos),
        request_id=request_id,
    )
    session.execute(
        update(ReferencePhoto)
        .where(ReferencePhoto.domain_id == person.domain_id, ReferencePhoto.id.in_(photos))
        .values(job_id=job_id),
        execution_options={"synchronize_session": False},
    )
    return job_id


_ANEW: Final[dict[str, Any]] = {
    "state": WAITING,
    "strategy": None,
    "face_id": None,
    "warnings": [],
    "error_code": None,
    "error_message": None,
}
