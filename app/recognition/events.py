"""What a recognition leaves in the audit: who was decided on, and how; no picture, no vector, no name."""

from typing import Final
from uuid import UUID

from app.audit.log import AuditLog, Noted
from app.recognition.matching import Decision
from app.recognition.service import FaceResult, FallbackReason, RecognitionResult

# An event is bounded; a picture of more people than that is none of a door.
_MOST_FACES: Final = 16
_MOST_PERSONS: Final = 500


def note_recognition(audit: AuditLog, result: RecognitionResult) -> Noted:
    """Leave the event of an answered recognition: how many faces, and the decision on each of the largest."""
    faces = {f"face_{number}": _told(face) for number, face in enumerate(result.faces[:_MOST_FACES])}
    return audit.note(
        "recognition.answered",
        {
            "mode": result.mode,
            "fallback": result.fallback_reason and result.fallback_reason.value,
            "model": result.model,
            "threshold": result.threshold,
            "faces": len(result.faces),
            **faces,
        },
        domain=result.domain,
        persons=_persons(result),
        away=result.fallback_reason is FallbackReason.DATABASE_UNAVAILABLE,
    )


def _persons(result: RecognitionResult) -> list[UUID]:
    """Who was matched, each once; in a dataset nobody has an id."""
    matched = [face.candidates[0].person_id for face in result.faces if face.decision is Decision.MATCH]
    return list(dict.fromkeys(person for person in matched if person is not None))[:_MOST_PERSONS]


def _told(face: FaceResult) -> str:
    """`match ID`, `ambiguous ID ID`, `unknown`."""
    between = {Decision.MATCH: 1, Decision.AMBIGUOUS: 2}.get(face.decision, 0)
    ids = [str(found.person_id) for found in face.candidates[:between] if found.person_id is not None]
    return " ".join([face.decision.value, *ids])
