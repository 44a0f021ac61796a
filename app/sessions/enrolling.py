"""An enrolment by frames: those that are picked are kept in the database, and become templates all at once, or not at all."""

import hashlib
from contextlib import ExitStack
from typing import Any, Final
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from app.audit import record
from app.db.domains import lock_domain
from app.db.models import Domain, Person
from app.db.neighbours import distance_to_person
from app.db.session_models import FaceSession, FaceSessionFrame
from app.db.sessions import pictures_of
from app.enrolment.images import PlacedPicture
from app.enrolment.lookup import find_person_or_none
from app.enrolment.persons import add_person
from app.enrolment.storing import store_face
from app.errors import DuplicateFace
from app.sessions import rows
from app.sessions.connection import Connection, GoodFrame
from app.sessions.frames import Reason
from app.sessions.picking import Kept, Outcome, Picks
from app.vision.faces import Box, Face, FaceQuality
from app.vision.packs import PackManifest

_NO_LANDMARKS: Final = np.zeros((5, 2), np.float32)


class Enrolment:
    """The work of a session of kind `enrol`."""

    def __init__(self, connection: Connection, manifest: PackManifest) -> None:
        self._connection = connection
        self._manifest = manifest
        opened = connection.opened
        self._rows: dict[int, FaceSessionFrame] = {row.frame: row for row in opened.kept}
        progress = opened.row.progress
        self._picks = Picks(
            threshold=manifest.calibration.threshold,
            limits=connection.limits,
            known=opened.known,
            kept=tuple(Kept(row.frame, row.details["group"], row.embedding) for row in opened.kept),
            counts=tuple(progress.get("counts", ())),
            outsiders=progress.get("outsiders", 0),
        )

    @property
    def progress(self) -> dict[str, Any]:
        """How many templates there are, of how many."""
        return {"templates": len(self._picks.chosen), "wanted": self._connection.limits.templates}

    def look(self, frame: GoodFrame) -> tuple[Reason | None, dict[str, Any] | None]:
        """Take one good frame into account. Returns why it was not taken, and the result where there is one.

        Raises: as `Connection.writing`; and StorageError.
        """
        picks, reason = self._picks.look(frame.embedding, frame.number)
        added = {kept.number for kept in picks.kept} - set(self._rows)
        fresh = {frame.number: self._row(frame, picks)} if added else {}
        outcome = picks.outcome if frame.left else picks.final
        if outcome is not Outcome.OPEN:
            result = self._end(picks, outcome, self._rows | fresh, frame)
        else:
            result = None
            if added or picks.strangers != self._picks.strangers:
                with self._connection.writing() as (session, row):
                    session.add_all(fresh.values())
                    row.progress = self._stored(picks)
        for kept in fresh.values():
            kept.picture = None  # the database has it; a stream holds none of them
        self._picks, self._rows = picks, self._rows | fresh
        return reason, result

    def finish(self) -> dict[str, Any]:
        """What it comes to without more frames.

        Raises: as `look`.
        """
        return self._end(self._picks, self._picks.final, self._rows, None)

    def _row(self, frame: GoodFrame, picks: Picks) -> FaceSessionFrame:
        face, keep = frame.face, self._connection.tools.settings.store_images
        return FaceSessionFrame(
            session_id=self._connection.id,
            frame=frame.number,
            domain_id=self._connection.opened.domain.id,
            contract=self._connection.opened.domain.contract,
            embedding=frame.embedding,
            details={
                "group": picks.kept[-1].group,
                "box": [face.box.x, face.box.y, face.box.w, face.box.h],
                "score": face.score,
                "size_px": face.quality.size_px,
                "sharpness": face.quality.sharpness,
            },
            image_sha256=hashlib.sha256(frame.picture).digest(),
            picture=frame.picture if keep else None,
        )

    def _stored(self, picks: Picks) -> dict[str, Any]:
        shown = {"templates": len(picks.chosen), "wanted": self._connection.limits.templates}
        return shown | {"counts": list(picks.counts), "outsiders": picks.outsiders}

    def _end(
        self, picks: Picks, outcome: Outcome, frames: dict[int, FaceSessionFrame], last: GoodFrame | None
    ) -> dict[str, Any]:
        if outcome is not Outcome.ENOUGH:
            return self._fail(picks, outcome.value)
        chosen = [frames[kept.number] for kept in picks.chosen]
        connection, opened = self._connection, self._connection.opened
        domain: list[Domain] = []

        def lock(session: Session) -> None:
            domain.append(lock_domain(session, opened.domain.id, contract=opened.domain.contract))

        # In this order: a transaction that cannot commit takes the pictures along.
        with ExitStack() as staged:
            pictures = {
                number: staged.enter_context(connection.tools.images.staged(opened.domain.uid, picture))
                for number, picture in self._pictures(chosen, last).items()
            }
            with connection.writing(domain_first=lock) as (session, row):
                result = self._store(session, row, domain[0], chosen, pictures)
                row.progress = self._stored(picks)
                rows.end_session(session, row, "succeeded" if result["outcome"] == "enrolled" else "failed", result)
                _note(session, row, result)
        return result | {"person": connection.opened.label}

    def _pictures(self, chosen: list[FaceSessionFrame], last: GoodFrame | None) -> dict[int, bytes]:
        """Of the chosen frames; read only now, and that of the last one, which is in the database not yet, not at all."""
        if not self._connection.tools.settings.store_images:
            return {}
        fresh = {} if last is None else {last.number: last.picture}
        numbers = [frame.frame for frame in chosen]
        with self._connection.asking() as session:
            kept = pictures_of(session, self._connection.id, set(numbers) - set(fresh))
        return {number: picture for number, picture in (kept | fresh).items() if number in numbers}

    def _store(
        self,
        session: Session,
        row: FaceSession,
        domain: Domain,
        chosen: list[FaceSessionFrame],
        pictures: dict[int, PlacedPicture],
    ) -> dict[str, Any]:
        """The chosen frames as templates, under the domain's lock.

        None of them where the person has got templates since which the frames were not compared with, of another face.
        """
        person, new = self._person(session, row, domain)
        if not new and self._is_another(session, domain, person, chosen):
            return {"outcome": "not_enrolled", "reason": Reason.ANOTHER_PERSON.value, "templates": 0, "duplicates": 0}
        faces: list[UUID] = []
        warnings: list[dict[str, str]] = []
        for frame in chosen:
            picture = pictures.get(frame.frame)
            try:
                with session.begin_nested():
                    template, resembled = store_face(
                        session,
                        self._connection.tools.settings,
                        domain,
                        person,
                        _face(frame),
                        frame.image_sha256,
                        self._manifest,
                        face_session=str(row.id),
                        new_person=new and not faces,
                    )
            except DuplicateFace:
                if picture is not None:
                    picture.discard()
                continue
            if picture is not None:
                picture.place(person.id, template.id)
            faces.append(template.id)
            warnings += [{"face": str(template.id), "code": one.code.value} for one in resembled]
        counts = {"templates": len(faces), "duplicates": len(chosen) - len(faces)}
        if not faces:
            return {"outcome": "not_enrolled", "reason": DuplicateFace.code, **counts}
        row.person_id = person.id
        told = {"new_person": new, "faces": [str(face) for face in faces], "warnings": warnings}
        return {"outcome": "enrolled", **told, **counts}

    def _is_another(self, session: Session, domain: Domain, person: Person, chosen: list[FaceSessionFrame]) -> bool:
        distances = (distance_to_person(session, domain.id, person.id, frame.embedding) for frame in chosen)
        return any(distance is not None and distance > self._manifest.calibration.threshold for distance in distances)

    def _person(self, session: Session, row: FaceSession, domain: Domain) -> tuple[Person, bool]:
        """Whose templates they become, and whether the person is new. With the person, the session would be gone too."""
        if row.person_id is not None:
            return session.get_one(Person, row.person_id), False
        person = find_person_or_none(session, domain.id, row.label)
        if person is not None:
            return person, False
        return add_person(session, domain.id, row.label, row.label), True

    def _fail(self, picks: Picks, reason: str) -> dict[str, Any]:
        result = {"outcome": "not_enrolled", "reason": reason, "templates": 0, "duplicates": 0}
        with self._connection.writing() as (session, row):
            row.progress = self._stored(picks)
            rows.end_session(session, row, "failed", result)
            _note(session, row, result)
        return result | {"person": self._connection.opened.label}


def _note(session: Session, row: FaceSession, result: dict[str, Any]) -> None:
    details = {
        name: value for name, value in result.items() if name in ("outcome", "reason", "templates", "duplicates")
    }
    record(
        session,
        f"session.{row.state}",
        domain_id=row.domain_id,
        persons=[] if row.person_id is None else [row.person_id],
        face_session=str(row.id),
        kind=row.kind,
        **details,
    )


def _face(frame: FaceSessionFrame) -> Face:
    details = frame.details
    quality = FaceQuality(details["size_px"], details["sharpness"])
    return Face(Box(*details["box"]), details["score"], _NO_LANDMARKS, quality, frame.embedding)
