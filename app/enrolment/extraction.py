"""One reference photo becomes a template: exactly once, whoever looks at it, and wherever they are killed.

The pool looks at it with no transaction open. Template, state and the end of the picture are one transaction, under the
domain's lock, in which the photo must still be there and ours: a person who was erased meanwhile does not come back.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import record
from app.config import Settings
from app.db.domains import lock_domain
from app.db.models import Domain, Person
from app.db.references import (
    WAITING,
    ClaimedPhoto,
    PhotoInfo,
    claim_photo,
    end_extracted,
    end_failed,
    give_back,
    read_photo,
    still_ours,
)
from app.db.session import Database
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.enrolment.images import ImageStore
from app.enrolment.quality import check_old_photo, main_face
from app.enrolment.storing import known_face, nearest_face, store_face
from app.errors import DatabaseError, DuplicateFace, EmbedderError, FacedexError, PoolBusy, StorageError
from app.vision.faces import Analysis, Face
from app.vision.packs import PackManifest, PackStore

log = structlog.stdlib.get_logger("facedex.enrolment")

TRANSIENT: Final = (EmbedderError, DatabaseError, StorageError)
"""Errors that say nothing of the photo: it waits for another attempt."""

# What follows the pool's answer has to be done in this time, or else somebody else may begin, for nothing.
_STORING_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Looking:
    """How a photo is looked at.

    Attributes:
        deadline: when to give up.
        client, request_id: as of `EmbedderClient.analyze`.
        background: whether ordinary requests go first.
        patient: wait for somebody else who has the photo in work, until the deadline.
    """

    deadline: Deadline
    client: str
    request_id: str = ""
    background: bool = False
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Extraction:
    """What became of a photo.

    Attributes:
        photo: as it is now; None where it is gone, maybe with its person.
        error: why it waits still, where it does.
        elsewhere: that is because somebody else has it in work.
    """

    photo: PhotoInfo | None
    error: FacedexError | None = None
    elsewhere: bool = False


class PhotoExtractor:
    """Makes templates of reference photos."""

    def __init__(
        self, settings: Settings, database: Database, embedder: EmbedderClient, packs: PackStore, images: ImageStore
    ) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._packs = packs
        self._images = images

    def extract(self, domain_id: int, photo_id: UUID, looking: Looking) -> Extraction:
        """Extract a photo that waits; one that does not is told of as it is.

        Raises:
            DatabaseError: nothing can be said of the photo.
        """
        while (claimed := self._claim(domain_id, photo_id, looking.deadline)) is None:
            photo = self._read(domain_id, photo_id)
            if photo is None or photo.state != WAITING:
                return Extraction(photo)
            if not looking.patient or looking.deadline.remaining_s() <= _LOOK_EVERY_S:
                busy = PoolBusy("The photo is being looked at elsewhere; try again shortly.")
                return Extraction(photo, busy, elsewhere=True)
            time.sleep(_LOOK_EVERY_S)
        try:
            return Extraction(self._work(claimed, looking))
        except TRANSIENT as error:
            log.info(f"[ENROL] Reference photo waits: {error.code}", photo=str(photo_id))
            self._give_back(claimed, error)
            return Extraction(self._read(domain_id, photo_id), error)
        except FacedexError as error:
            log.info(f"[ENROL] Reference photo failed: {error.code}", photo=str(photo_id))
            return Extraction(self._fail(claimed, error))
        except BaseException as error:
            self._give_back(claimed, EmbedderError(f"The attempt was broken off: {type(error).__name__}."))
            raise

    def _claim(self, domain_id: int, photo_id: UUID, deadline: Deadline) -> ClaimedPhoto | None:
        with self._database.transaction() as session:
            return claim_photo(session, domain_id, photo_id, lease_s=deadline.remaining_s() + _STORING_S)

    def _read(self, domain_id: int, photo_id: UUID) -> PhotoInfo | None:
        with self._database.transaction() as session:
            return read_photo(session, domain_id, photo_id)

    def _work(self, claimed: ClaimedPhoto, looking: Looking) -> PhotoInfo | None:
        analysis = self._embedder.analyze(
            claimed.picture,
            deadline=looking.deadline,
            request_id=looking.request_id,
            client=looking.client,
            background=looking.background,
            effort="thorough",
        )
        manifest = self._packs.get(analysis.model).manifest
        face = main_face(analysis)
        lacking = check_old_photo(
            face, min_face_px=self._settings.enrol_min_face_px, min_sharpness=manifest.min_sharpness
        )
        return self._store(claimed, analysis, face, manifest, lacking)

    def _store(
        self,
        claimed: ClaimedPhoto,
        analysis: Analysis,
        face: Face,
        manifest: PackManifest,
        lacking: tuple[str, ...],
    ) -> PhotoInfo | None:
        with self._database.transaction() as session:
            domain_uid = session.scalar(select(Domain.uid).where(Domain.id == claimed.domain_id))
        if domain_uid is None:
            return None
        # In this order: a transaction that cannot commit takes the picture along.
        with self._images.staged(domain_uid, claimed.picture) as picture, self._database.transaction() as session:
            domain = lock_domain(session, claimed.domain_id, contract=analysis.contract)
            person_id = still_ours(session, claimed)
            if person_id is None:
                picture.discard()
                return read_photo(session, claimed.domain_id, claimed.id)
            person = session.get_one(Person, person_id)
            try:
                template, resemblances = store_face(
                    session,
                    self._settings,
                    domain,
                    person,
                    face,
                    claimed.image_sha256,
                    manifest,
                    new_person=False,
                    reference_photo=str(claimed.id),
                    strategy=analysis.strategy,
                )
            except DuplicateFace:
                picture.discard()
                face_id, noticed = _twin(session, claimed, person_id, face), (*lacking, DuplicateFace.code)
            else:
                picture.place(person_id, template.id)
                face_id = template.id
                noticed = (*lacking, *(resemblance.code.value for resemblance in resemblances))
            end_extracted(session, claimed, strategy=analysis.strategy, face_id=face_id, warnings=noticed)
            return read_photo(session, claimed.domain_id, claimed.id)

    def _fail(self, claimed: ClaimedPhoto, error: FacedexError) -> PhotoInfo | None:
        with self._database.transaction() as session:
            person_id = end_failed(session, claimed, error.code, str(error))
            if person_id is not None:
                record(
                    session,
                    "reference_photo.failed",
                    domain_id=claimed.domain_id,
                    persons=[person_id],
                    photo=str(claimed.id),
                    code=error.code,
                )
            return read_photo(session, claimed.domain_id, claimed.id)

    def _give_back(self, claimed: ClaimedPhoto, error: FacedexError) -> None:
        """Where that is not possible, the claim runs out by itself."""
        with suppress(DatabaseError), self._database.transaction() as session:
            give_back(session, claimed, error.code, str(error))


def _twin(session: Session, claimed: ClaimedPhoto, person_id: UUID, face: Face) -> UUID:
    """The template that the person has of the photo."""
    assert face.embedding is not None
    found = known_face(session, claimed.domain_id, person_id, claimed.image_sha256) or nearest_face(
        session, claimed.domain_id, person_id, face.embedding
    )
    assert found is not None
    return found
