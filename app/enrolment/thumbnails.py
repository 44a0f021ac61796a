"""Small pictures of enrolled faces, for people to look at.

One is made when it is first asked for, by a worker of the pool, of the picture that STORE_IMAGES has kept, and lies beside that
one from then on: where no pictures are kept there are none, and who deletes a picture deletes both (docs/decisions/0024).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import select

from app.config import Settings
from app.db.models import FaceEmbedding
from app.db.session import Database
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.enrolment.images import ImageStore, thumbnail_of
from app.enrolment.lookup import find_domain, find_person
from app.errors import FaceNotFound
from app.names import as_uuid
from app.vision.faces import Box

log = structlog.stdlib.get_logger("facedex.enrolment")

MEDIA_TYPE: Final = "image/webp"
# A person's portrait is the best of so many.
_PORTRAITS: Final = 50
# Rises when they are made in another way.
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ShownFace:
    """An enrolled face whose picture was kept.

    Attributes:
        box: where it is in the picture.
        picture: the file.
        etag: the same as long as the small picture is the same.
    """

    id: UUID
    box: Box
    picture: Path

    @property
    def etag(self) -> str:
        """The picture of a face never changes."""
        return f"{self.id}-{_VERSION}"


class ThumbnailService:
    """Shows enrolled faces. `label` in the arguments is a label, an external id or an id, in this order."""

    def __init__(self, settings: Settings, database: Database, embedder: EmbedderClient, images: ImageStore) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._images = images

    def find(self, domain: str, label: str, face_id: str | None = None) -> ShownFace:
        """The face of that id, or with None the one that shows the person best: the surest of those whose picture was kept.

        Raises:
            DomainNotFound, PersonNotFound, FaceNotFound: as their names say; also where no picture was kept.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            person = find_person(session, found.id, label)
            wanted = [as_uuid(face_id)] if face_id else self._images.kept(found.uid, person.id, _PORTRAITS)
            face = session.scalars(
                select(FaceEmbedding)
                .where(
                    FaceEmbedding.domain_id == found.id,
                    FaceEmbedding.person_id == person.id,
                    FaceEmbedding.id.in_(filter(None, wanted)),
                )
                .order_by(FaceEmbedding.score.desc(), FaceEmbedding.id)
                .limit(1)
            ).one_or_none()
            picture = self._images.find(found.uid, person.id, face.id) if face else None
        if face is None or picture is None:
            raise FaceNotFound(
                "No picture of this face was kept." if face_id else "No picture of this person was kept."
            )
        return ShownFace(face.id, Box(face.box_x, face.box_y, face.box_w, face.box_h), picture)

    def read(self, face: ShownFace, *, client: str, request_id: str = "") -> bytes:
        """The small picture, a WebP file.

        Args:
            client, request_id: as of `EmbedderClient.analyze`.

        Raises:
            FaceNotFound: it was deleted a moment ago.
            EmbedderError, ImageError: it was not made yet, and cannot be made now.
        """
        try:
            return thumbnail_of(face.picture).read_bytes()
        except FileNotFoundError:
            return self._make(face, client, request_id)

    def _make(self, face: ShownFace, client: str, request_id: str) -> bytes:
        try:
            picture = face.picture.read_bytes()
        except FileNotFoundError:
            raise FaceNotFound("The picture was deleted.") from None
        deadline = Deadline.after(self._settings.request_deadline_s)
        small = self._embedder.thumbnail(picture, face.box, deadline=deadline, client=client, request_id=request_id)
        try:
            self._images.keep_thumbnail(face.picture, small)
        except OSError as error:  # it is made anew the next time
            log.warning("[ENROL] A small picture cannot be kept", face=str(face.id), reason=error.strerror)
        return small
