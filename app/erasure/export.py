"""All that is held about one person, as a zip archive: `person.json`, `images/<face's id>.jpg` where pictures were kept, and
`reference_photos/<id>.jpg` where photos are not extracted yet.

`docs/api.md` describes `person.json`. It is written face by face: memory is bounded.
"""

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from app.audit import record
from app.db.job_files import files_of
from app.db.models import AuditEvent, Domain, FaceEmbedding, FaceRejection, Person
from app.db.references import PhotoInfo, photo_of, select_photos
from app.db.session import Database, set_local
from app.db.session_models import FaceSession
from app.db.sessions import frames_of, select_sessions
from app.db.work_models import JobFile, ReferencePhoto
from app.enrolment.images import ImageStore, suffix
from app.enrolment.lookup import find_domain, find_person
from app.vision.formats import HEAD_BYTES, suffix_of

FORMAT: Final = "facedex-person-1"
_ROWS_AT_ONCE: Final = 200

# A picture's name in the archive, and where it is: a file, or a reference photo by domain and id.
_Picture = tuple[str, Path | tuple[int, UUID]]


class PersonExport:
    """Writes what is held about persons."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def write(self, domain: str, label: str, target: IO[bytes], *, statement_limit_s: float | None = None) -> UUID:
        """Write all that is held about a person, as it is at one moment; leaves an event in the audit first.

        Args:
            label: a label or, where nobody has that label, an id.
            target: a file that can be sought in.
            statement_limit_s: of each statement of the database; None: they take as long as they take.

        Returns:
            The person's id.

        Raises:
            DomainNotFound, PersonNotFound: as their names say; nothing was written.
            DatabaseError: the export is not complete.
        """
        with self._database.transaction() as session:
            found = find_domain(session, domain)
            person_id = find_person(session, found.id, label).id
            record(session, "person.exported", domain_id=found.id, persons=[person_id])
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("person.json", "w", force_zip64=True) as stream:
                pictures = self._write_json(stream, domain, person_id, statement_limit_s)
            # Not in the transaction, which the server ends when it hears nothing for a while.
            for name, source in pictures:
                if isinstance(source, Path):
                    _add_picture(archive, name, source)
                else:
                    self._add_photo(archive, name, *source)
        return person_id

    def _write_json(
        self, stream: IO[bytes], domain: str, person_id: UUID, statement_limit_s: float | None
    ) -> list[_Picture]:
        """Write `person.json`. Returns the pictures to be added: their names in the archive, and their files."""
        pictures: list[_Picture] = []
        with self._database.bulk_transaction() as session:
            session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            if statement_limit_s is not None:
                set_local(session, statement_timeout=f"{max(1, round(statement_limit_s * 1000))}ms")
            found = find_domain(session, domain)
            person = find_person(session, found.id, str(person_id))
            for part in self._json(session, found, person, pictures):
                stream.write(part.encode())
        return pictures

    def _json(self, session: Session, domain: Domain, person: Person, pictures: list[_Picture]) -> Iterator[str]:
        """The text of `person.json`, in parts; `pictures` gets the files to be added."""
        head = {
            "format": FORMAT,
            "domain": {"id": str(domain.uid), "name": domain.name},
            "model": {"name": domain.model, "contract": domain.contract, "dimension": domain.dimension},
            "person": _person(person),
        }
        yield _dumped(head)[:-1]
        faces = session.scalars(
            select(FaceEmbedding)
            .where(FaceEmbedding.domain_id == domain.id, FaceEmbedding.person_id == person.id)
            .order_by(FaceEmbedding.created_at, FaceEmbedding.id)
            .execution_options(yield_per=_ROWS_AT_ONCE)
        )
        yield from _member("faces", (self._face(session, domain, face, pictures) for face in faces))
        rejections = session.scalars(
            select(FaceRejection)
            .where(
                FaceRejection.domain_id == domain.id,
                or_(FaceRejection.person_id == person.id, FaceRejection.actual_person_id == person.id),
            )
            .order_by(FaceRejection.created_at)
            .execution_options(yield_per=_ROWS_AT_ONCE)
        )
        yield from _member("rejections", map(_rejection, rejections))
        yield from _member("reference_photos", self._photos(session, domain, person, pictures))
        sessions = session.scalars(
            select_sessions(domain.id, person.id, filter(None, (person.label, person.external_id, str(person.id))))
        )
        yield from _member("sessions", (_session(session, row) for row in sessions))
        names = [person.label, *filter(None, [person.external_id]), str(person.id), *map(str, person.former_ids)]
        yield from _member("import_files", map(_file, files_of(session, domain.id, names)))
        events = session.scalars(
            select(AuditEvent.body)
            .where(AuditEvent.domain_id == domain.id, AuditEvent.body.contains(str(person.id), autoescape=True))
            .order_by(AuditEvent.seq)
            .execution_options(yield_per=_ROWS_AT_ONCE)
        )
        yield from _member("audit_events", map(json.loads, events))
        yield "}\n"

    def _face(self, session: Session, domain: Domain, face: FaceEmbedding, pictures: list[_Picture]) -> dict[str, Any]:
        path = self._images.find(domain.uid, face.person_id, face.id)
        name = f"images/{face.id}{suffix(path)}" if path else None
        if path and name:
            pictures.append((name, path))
        session.expunge(face)
        return {
            "id": str(face.id),
            "box": {"x": face.box_x, "y": face.box_y, "w": face.box_w, "h": face.box_h},
            "detection_score": face.score,
            "sharpness": face.sharpness,
            "image_sha256": face.image_sha256 and face.image_sha256.hex(),
            "image": name,
            "created_at": face.created_at.isoformat(),
            "embedding": face.embedding.tolist(),
        }

    def _photos(
        self, session: Session, domain: Domain, person: Person, pictures: list[_Picture]
    ) -> Iterator[dict[str, Any]]:
        """Of each what is told; its picture, where it has one still, is added later: it may be long."""
        head = func.substring(ReferencePhoto.picture, 1, HEAD_BYTES)
        query = select_photos(domain.id).add_columns(head).where(ReferencePhoto.person_id == person.id)
        for *row, first_bytes in session.execute(query.order_by(ReferencePhoto.created_at, ReferencePhoto.id)):
            photo = photo_of(row)
            name = None
            if first_bytes is not None:
                name = f"reference_photos/{photo.id}{suffix_of(bytes(first_bytes))}"
                pictures.append((name, (domain.id, photo.id)))
            yield _photo(photo, name)

    def _add_photo(self, archive: zipfile.ZipFile, name: str, domain_id: int, photo_id: UUID) -> None:
        """One that was extracted or deleted meanwhile is left out."""
        with self._database.transaction() as session:
            picture = session.scalar(
                select(ReferencePhoto.picture).where(
                    ReferencePhoto.domain_id == domain_id, ReferencePhoto.id == photo_id
                )
            )
        if picture is not None:
            archive.writestr(zipfile.ZipInfo(name), picture)


def _photo(photo: PhotoInfo, picture: str | None) -> dict[str, Any]:
    return {
        "id": str(photo.id),
        "state": photo.state,
        "image_sha256": photo.image_sha256,
        "image": picture,
        "strategy": photo.strategy,
        "face_id": photo.face_id and str(photo.face_id),
        "warnings": list(photo.warnings),
        "error_code": photo.error_code,
        "created_at": photo.created_at.isoformat(),
        "tried_at": photo.tried_at and photo.tried_at.isoformat(),
    }


def _file(row: JobFile) -> dict[str, Any]:
    return {
        "job_id": str(row.job_id),
        "file": row.file_name,
        "state": row.state,
        "face_id": row.face_id and str(row.face_id),
        "error_code": row.error_code,
    }


def _session(session: Session, row: FaceSession) -> dict[str, Any]:
    """Without the frames' pictures: those of an open session are not decided on yet, and go with it."""
    return {
        "id": str(row.id),
        "kind": row.kind,
        "state": row.state,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(),
        "expires_at": row.expires_at.isoformat(),
        "finished_at": row.finished_at and row.finished_at.isoformat(),
        "result": row.result,
        "frames": [
            {
                "frame": frame.frame,
                "image_sha256": frame.image_sha256.hex(),
                "embedding": frame.embedding.tolist(),
            }
            for frame in frames_of(session, row.id)
        ],
    }


def _person(person: Person) -> dict[str, Any]:
    return {
        "id": str(person.id),
        "label": person.label,
        "display_name": person.display_name,
        "external_id": person.external_id,
        "metadata": person.attributes,
        "valid_from": person.valid_from and person.valid_from.isoformat(),
        "valid_until": person.valid_until and person.valid_until.isoformat(),
        "created_at": person.created_at.isoformat(),
        "updated_at": person.updated_at.isoformat(),
    }


def _rejection(row: FaceRejection) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "person_id": str(row.person_id),
        "actual_person_id": row.actual_person_id and str(row.actual_person_id),
        "image_sha256": row.image_sha256.hex(),
        "face": row.face,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(),
        "embedding": row.embedding.tolist(),
    }


def _member(name: str, items: Iterable[dict[str, Any]]) -> Iterator[str]:
    """`, "name": [one item a line]`, of an object that is being written."""
    yield f',\n"{name}": ['
    for number, item in enumerate(items):
        yield (",\n" if number else "\n") + _dumped(item)
    yield "]"


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _add_picture(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """As it is: pictures are compressed already. One that was deleted meanwhile is left out."""
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return
    with source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
        shutil.copyfileobj(source, target)
