"""What the verification of a person leaves in the audit: whom, and how it was decided; no picture, no vector, no name."""

from app.audit.log import AuditLog, Noted
from app.verification.person import PersonVerification


def note_verification(audit: AuditLog, result: PersonVerification) -> Noted:
    """Leave the event of an answered verification of a person."""
    return audit.note(
        "verification.answered",
        {
            "verified": result.verified,
            "reason": result.refusal and result.refusal.value,
            "distance": round(result.distance, 6),
            "threshold": result.threshold,
            "model": result.model,
        },
        domain=result.claimed.domain,
        persons=[result.claimed.person_id],
    )
