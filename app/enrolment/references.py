"""Reference photos ("old photos"): kept with a person, extracted in the background, or at once where somebody asks for it.

A photo and the job that extracts it are stored in one transaction. Its picture is kept until it has become a template; of one
in which no face was found, until it is deleted, its person is erased, or a later attempt succeeds.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import delete, select, tuple_

from app.audit import record
from app.config import Settings
from app.db.domains import lock_domain, raise_cache_epoch
from app.db.models import Domain, FaceEmbedding
from app.db.references import (
    EXTRACTED,
    FAILED,
    WAITING,
    PhotoInfo,
    photo_of,
    read_photo,
    select_photos,
)
from app.db.session import Database
from app.db.templates import delete_template
from app.db.work_models import ReferencePhoto
from app.deadline import Deadline
from app.embedder.batch import pictures_at_once
from app.enrolment.extraction import Extraction, Looking, PhotoExtractor
from app.enrolment.images import ImageStore
from app.enrolment.lookup import PersonRef, find_domain, find_person
from app.enrolment.persons import PersonDetails, new_person
from app.enrolment.photo_rows import AddedPhotos, add_photos, checked_pictures, take_up, wait_again
from app.errors import (
    DuplicateFace,
    FacedexError,
    InvalidRequest,
    ReferencePhotoNotFound,
    WorkerCrashed,
    WorkerTimeout,
)
from app.names import as_uuid
from app.pages import Page, decode_cursor, encode_cursor
from app.tenancy import carried

log = structlog.stdlib.get_logger("facedex.enrolment")

# In the background there is time; the pool takes ordinary requests first.
BACKGROUND_S: Final = 30.0
# Who is about to be verified should not wait again and again for a photo that the pool has given up on so often.
_BACKUP_ATTEMPTS: Final = 3
_OF_ONE_PHOTO: Final = (WorkerTimeout, WorkerCrashed)

_WAITS: Final = ReferencePhoto.state == WAITING
_ORDER: Final = (ReferencePhoto.created_at, ReferencePhoto.id)


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What became of a person's waiting photos; empty where none waited."""

    person: PersonRef
    extractions: tuple[Extraction, ...]

    @property
    def error(self) -> FacedexError | None:
        """Why the first of those that wait still does so."""
        return next((found.error for found in self.extractions if found.error is not None), None)


@dataclass(frozen=True, slots=True)
class WaitingPhoto:
    """A photo that is to be extracted, and where it belongs."""

    domain_id: int
    domain: str
    person_id: UUID
    id: UUID


class ReferenceService:
    """The operations on reference photos. `label` in the arguments is a label, an external id or an id, in this order."""

    def __init__(self, settings: Settings, database: Database, extractor: PhotoExtractor, images: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._extractor = extractor
        self._images = images

    def add(
        self, domain: str, label: str, uploads: Sequence[tuple[str, bytes]], *, request_id: str | None = None
    ) -> AddedPhotos:
        """Keep photos of a person, and have them extracted in the background; all of them or none.

        A photo that the person has already is that one: it is extracted once more where that has failed, or where its face was
        deleted since.

        Args:
            uploads: the client's name for each file, for messages only, and its bytes.
            request_id: of the request.

        Raises:
            EmptyUpload, UploadTooLarge, InvalidImage, UnsupportedImage: a file that cannot be a picture.
            DomainNotFound, PersonNotFound: as their names say.
            TooManyReferencePhotos: the person would have more than `MAX_PHOTOS_PER_PERSON`.
            DatabaseError: nothing was stored.
        """
        pictures = checked_pictures(uploads, max_bytes=self._settings.max_upload_bytes)
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            lock_domain(session, domain_id)
            person = find_person(session, domain_id, label)
            return add_photos(session, person, pictures, request_id)

    def register(
        self,
        domain: str,
        label: str,
        display_name: str | None,
        details: PersonDetails,
        uploads: Sequence[tuple[str, bytes]],
        *,
        request_id: str | None = None,
    ) -> AddedPhotos:
        """Make a person with photos; all of it or nothing.

        Raises: as `PersonService.create` and `add`.
        """
        pictures = checked_pictures(uploads, max_bytes=self._settings.max_upload_bytes)
        with self._database.transaction() as session:
            person = new_person(session, domain, label, display_name, details)
            return add_photos(session, person, pictures, request_id)

    def list(self, domain: str, label: str, *, limit: int, cursor: str | None) -> Page[PhotoInfo]:
        """A person's photos, oldest first.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            InvalidRequest: the cursor is not one of ours.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            person = find_person(session, domain_id, label)
            order = (ReferencePhoto.created_at, ReferencePhoto.id)
            query = select_photos(domain_id).where(ReferencePhoto.person_id == person.id)
            if cursor is not None:
                query = query.where(tuple_(*order) > tuple_(*_photo_key(cursor)))
            found = [photo_of(row) for row in session.execute(query.order_by(*order).limit(limit + 1))]
        last = found[limit - 1] if len(found) > limit else None
        return Page(found[:limit], encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None)

    def delete(self, domain: str, label: str, photo_id: str) -> None:
        """Delete a photo with the face that was made of it: it is as if it had never been sent.

        Raises:
            DomainNotFound, PersonNotFound, ReferencePhotoNotFound: as their names say.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            lock_domain(session, found.id)
            person = find_person(session, found.id, label)
            wanted = as_uuid(photo_id)
            photo = None if wanted is None else read_photo(session, found.id, wanted)
            if photo is None or photo.person_id != person.id:
                raise ReferencePhotoNotFound("This person has no reference photo of that id.")
            session.execute(
                delete(ReferencePhoto).where(ReferencePhoto.domain_id == found.id, ReferencePhoto.id == photo.id)
            )
            # One that the person had before is not the photo's.
            face_id = None if DuplicateFace.code in photo.warnings else photo.face_id
            if face_id is not None:
                delete_template(session, found.id, person.id, face_id)
                raise_cache_epoch(session, found.id)
            record(
                session,
                "reference_photo.deleted",
                domain_id=found.id,
                persons=[person.id],
                photo=str(photo.id),
                face=None if face_id is None else str(face_id),
            )
            path = self._images.path(found.uid, person.id, face_id) if face_id else None
        if path is not None:
            self._database.once_committed(lambda: self._images.discard(path))

    def preload(
        self,
        domain: str,
        label: str,
        *,
        deadline: Deadline,
        client: str,
        request_id: str = "",
        failed: bool = False,
    ) -> Preloaded:
        """Extract a person's waiting photos now. Those that somebody else has in work are waited for.

        Args:
            deadline: what is not done by then waits still.
            client, request_id: for the pool.
            failed: once more also those in which nothing was found. A job goes on with what is not done by the deadline.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            DatabaseError: before anything was extracted.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            if failed:
                lock_domain(session, domain_id)
            person = find_person(session, domain_id, label)
            ref, theirs = PersonRef.of(person), ReferencePhoto.person_id == person.id
            if failed:
                wait_again(session, domain_id, theirs)
                take_up(session, person, request_id or None)
            query = select(ReferencePhoto.id).where(ReferencePhoto.domain_id == domain_id, theirs, _WAITS)
            waiting = session.scalars(query.order_by(*_ORDER)).all()
        looking = Looking(deadline, client, request_id, patient=True)
        return Preloaded(ref, self._extract_all(domain_id, waiting, looking))

    def preload_where_needed(
        self, domain: str, label: str, *, deadline: Deadline, client: str, request_id: str = ""
    ) -> bool:
        """As `preload`, for a person who has no face to be compared with yet; before a session that needs one begins.

        Returns:
            whether anything was extracted. What fails is logged: whoever asks finds out that there is no face.

        Raises:
            DomainNotFound, PersonNotFound: as their names say.
            DatabaseError: nobody can be asked.
        """
        with self._database.transaction() as session:
            domain_id = find_domain(session, domain).id
            person = find_person(session, domain_id, label)
            faces = select(FaceEmbedding.id).where(
                FaceEmbedding.domain_id == domain_id, FaceEmbedding.person_id == person.id
            )
            query = select(ReferencePhoto.id).where(
                ReferencePhoto.domain_id == domain_id,
                ReferencePhoto.person_id == person.id,
                _WAITS,
                ReferencePhoto.attempts < _BACKUP_ATTEMPTS,
                ~faces.exists(),
            )
            waiting = session.scalars(query.order_by(*_ORDER)).all()
        looking = Looking(deadline, client, request_id, patient=True)
        found = self._extract_all(domain_id, waiting, looking)
        return any(entry.photo is not None and entry.photo.state == EXTRACTED for entry in found)

    def extract_for_job(
        self,
        domain_id: int,
        job_id: UUID,
        *,
        client: str,
        request_id: str = "",
        progress: Callable[[int, int | None], None] = lambda done, total: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, int]:
        """Extract the photos of a job, one after the other, behind all ordinary requests.

        Args:
            progress: is told how many of how many are settled.
            cancelled: asked before each photo whether to stop.

        Returns:
            how many are in each state.

        Raises:
            EmbedderError, DatabaseError, StorageError: some wait still, and the job has to be done again.
        """
        waiting = self._of_job(domain_id, job_id, WAITING)
        error: FacedexError | None = None
        for photo_id in waiting:
            if cancelled():
                break
            looking = Looking(Deadline.after(BACKGROUND_S), client, request_id, background=True)
            found = self._extractor.extract(domain_id, photo_id, looking)
            if found.error is not None:
                error = error or found.error
                if not found.elsewhere and not isinstance(found.error, _OF_ONE_PHOTO):
                    break  # it would be the same with the next
                continue
            progress(*self._progress_of(domain_id, job_id))
        if error is not None:
            raise error
        return {state: len(self._of_job(domain_id, job_id, state)) for state in (WAITING, EXTRACTED, FAILED)}

    def waiting(self, domain: str | None = None, *, failed: bool = False) -> Sequence[WaitingPhoto]:
        """The photos that are to be extracted, of one domain or of all within reach, oldest first.

        Args:
            failed: also those in which nothing was found.

        Raises:
            DomainNotFound: no such domain.
        """
        with self._database.transaction() as session:
            query = (
                select(ReferencePhoto.domain_id, Domain.name, ReferencePhoto.person_id, ReferencePhoto.id)
                .join(Domain, Domain.id == ReferencePhoto.domain_id)
                .where(ReferencePhoto.state.in_((WAITING, FAILED) if failed else (WAITING,)))
                .order_by(Domain.name, *_ORDER)
            )
            if domain is not None:
                query = query.where(ReferencePhoto.domain_id == find_domain(session, domain).id)
            return [WaitingPhoto(*row) for row in session.execute(query)]

    def extract(self, photo: WaitingPhoto, *, client: str, again: bool = False) -> Extraction:
        """Extract one photo in the background's time, behind all ordinary requests.

        Args:
            again: also where nothing was found in it before.

        Raises:
            DatabaseError: nothing can be said of the photo.
        """
        if again:
            with self._database.transaction() as session:
                wait_again(session, photo.domain_id, ReferencePhoto.id == photo.id)
        looking = Looking(Deadline.after(BACKGROUND_S), client, background=True, patient=True)
        return self._extractor.extract(photo.domain_id, photo.id, looking)

    def _extract_all(self, domain_id: int, photos: Sequence[UUID], looking: Looking) -> tuple[Extraction, ...]:
        """In the order of the photos, without those that are gone."""

        def extract(photo_id: UUID) -> Extraction:
            return self._extractor.extract(domain_id, photo_id, looking)

        with ThreadPoolExecutor(max_workers=pictures_at_once(self._settings, len(photos))) as threads:
            found = list(threads.map(carried(extract), photos))
        return tuple(entry for entry in found if entry.photo is not None)

    def _of_job(self, domain_id: int, job_id: UUID, *states: str) -> Sequence[UUID]:
        with self._database.transaction() as session:
            query = select(ReferencePhoto.id).where(
                ReferencePhoto.domain_id == domain_id,
                ReferencePhoto.job_id == job_id,
                ReferencePhoto.state.in_(states),
            )
            return session.scalars(query.order_by(*_ORDER)).all()

    def _progress_of(self, domain_id: int, job_id: UUID) -> tuple[int, int]:
        settled = len(self._of_job(domain_id, job_id, EXTRACTED, FAILED))
        return settled, settled + len(self._of_job(domain_id, job_id, WAITING))


def _photo_key(cursor: str) -> tuple[datetime, UUID]:
    created_at, photo_id = decode_cursor(cursor, 2)
    try:
        return datetime.fromisoformat(created_at), UUID(photo_id)
    except ValueError:
        raise InvalidRequest("The cursor is not one that this service gave.") from None
