"""A verification by frames: each good one is compared with the person's templates, and counts for or against."""

import hashlib
from typing import Any, Final

from sqlalchemy.orm import Session

from app.audit import record
from app.db.person_distances import PersonDistances, distances_to
from app.db.session_models import FaceSession
from app.enrolment.quality import is_same_photo
from app.errors import NoTemplates
from app.sessions import rows
from app.sessions.connection import Connection, GoodFrame
from app.sessions.deciding import Evidence, Verdict, threshold_of
from app.sessions.frames import Reason
from app.sessions.picking import FAR
from app.vision.faces import Float32Array
from app.vision.packs import PackManifest

# Of a digest, for telling frames of one session apart.
_DIGEST_CHARS: Final = 16
_MOST_STRANGERS: Final = 1


class Verification:
    """The work of a session of kind `verify`."""

    def __init__(self, connection: Connection, manifest: PackManifest) -> None:
        self._connection = connection
        self._calibration = manifest.calibration
        progress = connection.opened.row.progress
        threshold = threshold_of(connection.limits, manifest.calibration)
        self._evidence = Evidence(connection.limits, threshold).restored(progress.get("evidence", {}))
        self._seen: list[str] = list(progress.get("seen", ()))
        self._embeddings: list[Float32Array] = []

    @property
    def progress(self) -> dict[str, Any]:
        """How many good frames there are, and their mean distance."""
        return _progress(self._evidence)

    def look(self, frame: GoodFrame) -> tuple[Reason | None, dict[str, Any] | None]:
        """Take one good frame into account. Returns why it speaks against the person, and the result where there is one.

        Raises: as `Connection.writing`.
        """
        digest = hashlib.sha256(frame.picture).hexdigest()[:_DIGEST_CHARS]
        if digest in self._seen or self._is_seen(frame.embedding):
            return Reason.TOO_SIMILAR, None if frame.left else self.finish()
        seen = [*self._seen, digest]
        result: dict[str, Any] | None = None
        with self._connection.writing() as (session, row):
            found = self._compared(session, row, frame.embedding)
            distance, stranger = self._counted(found)
            evidence = self._evidence.with_frame(distance, stranger=stranger)
            row.progress = _progress(evidence) | {"evidence": evidence.to_json(), "seen": seen}
            verdict = evidence.verdict(frame.left)
            if found.nearest is None or not found.valid:
                result = self._end(session, row, evidence, NoTemplates.code if found.valid else "not_valid")
            elif verdict is not Verdict.OPEN:
                result = self._end(session, row, evidence, _reason(evidence, verdict))
        self._evidence, self._seen = evidence, seen
        self._embeddings.append(frame.embedding)
        return Reason.ANOTHER_PERSON if stranger else None, result

    def finish(self) -> dict[str, Any]:
        """What it comes to without more frames.

        Raises: as `look`.
        """
        with self._connection.writing() as (session, row):
            return self._end(session, row, self._evidence, _reason(self._evidence, self._evidence.final))

    def _is_seen(self, embedding: Float32Array) -> bool:
        threshold = self._calibration.threshold
        return any(is_same_photo(1.0 - float(embedding @ other), threshold) for other in self._embeddings)

    def _compared(self, session: Session, row: FaceSession, embedding: Float32Array) -> PersonDistances:
        assert row.person_id is not None  # or the session would be gone with the person
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


def _reason(evidence: Evidence, verdict: Verdict) -> str | None:
    """Why it is not the person; None where it is."""
    if verdict is Verdict.ACCEPTED:
        return None
    if verdict is Verdict.TOO_FEW:
        return verdict.value
    return Reason.ANOTHER_PERSON.value if evidence.strangers > _MOST_STRANGERS else "not_alike"
