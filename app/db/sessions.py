"""What becomes of sessions when their person is erased, merged or renamed: those that know only a label do not follow."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from app.db.session_models import FaceSession

_FOLLOW_SQL: Final = """
UPDATE face_sessions SET person_id = :target WHERE domain_id = :domain_id AND (
    person_id = :source OR (person_id IS NULL AND label = :label)
)
"""


def erase_sessions(session: Session, domain_id: int, person_id: UUID, labels: Iterable[str]) -> int:
    """Delete a person's sessions, with all frames, and those of whoever is to get one of these labels. Returns how many."""
    belongs = (FaceSession.person_id == person_id) | (
        FaceSession.person_id.is_(None) & FaceSession.label.in_(list(labels))
    )
    query = delete(FaceSession).where(FaceSession.domain_id == domain_id, belongs).returning(FaceSession.id)
    return len(session.scalars(query, execution_options={"synchronize_session": False}).all())


def sessions_follow(session: Session, domain_id: int, label: str, source_id: UUID, target_id: UUID) -> None:
    """Make sessions another person's: those of a person, and those that would have found them by their label.

    Of a person who is renamed, source and target are the same.
    """
    values = {"domain_id": domain_id, "label": label, "source": source_id, "target": target_id}
    session.execute(text(_FOLLOW_SQL), values)
