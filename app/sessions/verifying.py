"""A verification by frames: each good one is compared with the person's templates, and counts for or against.

The frames that count are kept until the end. What is decided is decided on all of them, compared with the person as they are
then: a face may have been deleted since, or rejected, or the person be valid no more. And a picture that was seen does not
count again, however often the client connects.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.orm import Session

from app.audit import record
from app.db.person_distances import PersonDistances, distances_of_frames, distances_to
from app.db.session_models import FaceSession, FaceSessionFrame
from app.enrolment.quality import is_same_photo
from app.errors import NoTemplates
from app.sessions import rows
from app.sessions.connection import Connection, GoodFrame
from app.sessions.deciding import Evidence, Verdict, threshold_of
from app.sessions.frames import Reason
from app.sessions.picking import FAR
from app.vision.faces import Float32Array
from app.vision.packs import PackManifest

_MOST_STRANGERS: Final = 1


class Verification:
    """The work of a session of kind `verify`."""

    def __init__(self, connection: Connection, manifest: PackManifest) -> None:
        self._connection = connection
        self._calibration = manifest.calibration
        self._evidence = self._none_yet.restored(connection.opened.row.progress.get("evidence", {}))
        self._seen = {frame.image_sha256: frame.embedding for frame in connection.opened.kept}

    @property
    def progress(self) -> dict[str, Any]:
        """How many good frames there are, and their mean distance."""
        return _progress(self._evidence)

    def look(self, frame: GoodFrame) -> tuple[Reason | None, dict[str, Any] | None]:
        """Take one good frame into account. Returns why it speaks against the person, and the result where there is one.

        Raises: as `Connection.writing`.
        """
        digest = hashlib.sha256(frame.picture).digest()
        if digest in self._seen or self._is_seen(frame.embedding):
            return Reason.TOO_SIMILAR, None if frame.left else self.finish()
        result: dict[str, Any] | None = None
        with self._connection.writing() as (session, row):
            found = self._compared(session, row, frame.embedding)
            distance, stranger = self._counted(found)
            evidence = self._evidence.with_frame(distance, stranger=stranger)
            session.add(self._kept(frame, digest))
            if (fault := _fault([found])) is not None:
                result = self._end(session, row, evidence, fault)
            elif evidence.verdict(frame.left) is not Verdict.OPEN:
                evidence, result = self._decide(session, row, frame.left)
            else:
                row.progress = _stored(evidence)
        self._evidence = evidence
        self._seen[digest] = frame.embedding
        return Reason.ANOTHER_PERSON if stranger else None, result

    def finish(self) -> dict[str, Any]:
        """What it comes to without more frames.

        Raises: as `look`.
        """
        with self._connection.writing() as (session, row):
            _, result = self._decide(session, row, 0)
            assert result is not None
        return result

    def _decide(self, session: Session, row: FaceSession, left: int) -> tuple[Evidence, dict[str, Any] | None]:
        """All frames anew, and the result, if it is one still."""
        assert row.person_id is not None
        session.flush()
        found = distances_of_frames(session, row.domain_id, row.person_id, row.id)
        evidence = self._none_yet
        for one in found:
            distance, stranger = self._counted(one)
            evidence = evidence.with_frame(distance, stranger=stranger)
        verdict, fault = evidence.verdict(left), _fault(found)
        if fault is None and verdict is Verdict.OPEN:
            row.progress = _stored(evidence)
            return evidence, None
        return evidence, self._end(session, row, evidence, fault or _reason(evidence, verdict))

    @property
    def _none_yet(self) -> Evidence:
        limits = self._connection.limits
        return Evidence(limits, threshold_of(limits, self._calibration))

    def _is_seen(self, embedding: Float32Array) -> bool:
        threshold = self._calibration.threshold
        return any(is_same_photo(1.0 - float(embedding @ other), threshold) for other in self._seen.values())

    def _kept(self, frame: GoodFrame, digest: bytes) -> FaceSessionFrame:
        domain = self._connection.opened.domain
        return FaceSessionFrame(
            session_id=self._connection.id,
            frame=frame.number,
            domain_id=domain.id,
            contract=domain.contract,
            embedding=frame.embedding,
            details={},
            image_sha256=digest,
        )

    def _compared(self, session: Session, row: FaceSession, embedding: Float32Array) -> PersonDistances:
        assert row.person_id is not None  # or the session would be gone with the person
        with session.no_autoflush:  # what is to be written is written at once
            found = distances_to(session, row.domain_id, row.person_id, embedding)
        if found is None:
            raise rows.not_found()
        return found

    def _counted(self, found: PersonDistances) -> tuple[float, bool]:
        """At what distance the frame counts, and whether it is clearly somebody else's: as far away as such are, at least."""
        far = FAR * self._calibration.threshold
        distance = 2.0 if found.nearest is None else found.nearest
        if found.is_rejected(self._calibration.threshold):
            return max(distance, far), True
        return distance, distance > far

    def _end(self, session: Session, row: FaceSession, evidence: Evidence, reason: str | None) -> dict[str, Any]:
        mean = evidence.mean
        result = {
            "outcome": "verified" if reason is None else "not_verified",
            "verified": reason is None,
            "reason": reason,
            "good_frames": evidence.frames,
            "distance": None if mean is None else round(mean, 6),
            "threshold": round(evidence.threshold, 6),
            "confidence": None if mean is None else round(self._calibration.confidence(mean), 2),
            "false_match_rate": self._connection.limits.false_match_rate,
        }
        row.progress = _stored(evidence)
        rows.end_session(session, row, "succeeded" if reason is None else "failed", result)
        told = {name: result[name] for name in ("outcome", "reason", "good_frames", "distance", "threshold")}
        record(
            session,
            f"session.{row.state}",
            domain_id=row.domain_id,
            persons=[] if row.person_id is None else [row.person_id],
            face_session=str(row.id),
            kind=row.kind,
            **told,
        )
        return result | {"person": self._connection.opened.label}


def _progress(evidence: Evidence) -> dict[str, Any]:
    mean = evidence.mean
    return {"good_frames": evidence.frames, "distance": None if mean is None else round(mean, 6)}


def _stored(evidence: Evidence) -> dict[str, Any]:
    return _progress(evidence) | {"evidence": evidence.to_json()}


def _fault(found: Sequence[PersonDistances]) -> str | None:
    """Why nobody can be this person now, whatever was seen; None where there is no reason."""
    if any(not one.valid for one in found):
        return "not_valid"
    return NoTemplates.code if any(one.nearest is None for one in found) else None


def _reason(evidence: Evidence, verdict: Verdict) -> str | None:
    """Why it is not the person; None where it is."""
    if verdict is Verdict.ACCEPTED:
        return None
    if verdict is Verdict.TOO_FEW:
        return verdict.value
    return Reason.ANOTHER_PERSON.value if evidence.strangers > _MOST_STRANGERS else "not_alike"
