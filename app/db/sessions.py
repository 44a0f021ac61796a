"""What becomes of sessions when their person is erased, merged or renamed: those that know only a label do not follow."""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, select, text
from sqlalchemy.orm import Session, defer

from app.db.session_models import FaceSession, FaceSessionFrame

_FOLLOW_SQL: Final = """
UPDATE face_sessions SET person_id = :target WHERE domain_id = :domain_id AND (
    person_id = :source OR (person_id IS NULL AND label = ANY (:names))
)
"""


def select_sessions(domain_id: int, person_id: UUID, names: Iterable[str]) -> Select[FaceSession]:
    """A person's sessions, and those of whoever is to be called by one of these names, oldest first."""
    return (
        select(FaceSession)
        .where(FaceSession.domain_id == domain_id, _belongs(person_id, names))
        .order_by(FaceSession.created_at, FaceSession.id)
    )


def frames_of(session: Session, session_id: UUID) -> Sequence[FaceSessionFrame]:
    """The frames that a session keeps, in their order; without their pictures, which `pictures_of` has."""
    query = select(FaceSessionFrame).where(FaceSessionFrame.session_id == session_id)
    return session.scalars(
        query.order_by(FaceSessionFrame.frame).options(defer(FaceSessionFrame.picture, raiseload=True))
    ).all()


def pictures_of(session: Session, session_id: UUID, frames: Iterable[int]) -> dict[int, bytes]:
    """The pictures of those frames that are kept with one."""
    query = select(FaceSessionFrame.frame, FaceSessionFrame.picture).where(
        FaceSessionFrame.session_id == session_id, FaceSessionFrame.frame.in_(list(frames))
    )
    return {frame: picture for frame, picture in session.execute(query) if picture is not None}


def erase_sessions(session: Session, domain_id: int, person_id: UUID, names: Iterable[str]) -> int:
    """Delete a person's sessions, with all frames, and those of whoever is to be called so. Returns how many."""
    belongs = (FaceSession.domain_id == domain_id, _belongs(person_id, names))
    query = delete(FaceSession).where(*belongs).returning(FaceSession.id)
    return len(session.scalars(query, execution_options={"synchronize_session": False}).all())


def sessions_follow(
    session: Session, domain_id: int, names: Iterable[str | None], source_id: UUID, target_id: UUID
) -> None:
    """Make sessions another person's: those of a person, and those that would have found them by their label or external id.

    Of a person who is renamed, source and target are the same.
    """
    known = [*{*filter(None, names), str(source_id)}]
    values = {"domain_id": domain_id, "names": known, "source": source_id, "target": target_id}
    session.execute(text(_FOLLOW_SQL), values)


def _belongs(person_id: UUID, names: Iterable[str]) -> ColumnElement[bool]:
    return (FaceSession.person_id == person_id) | (FaceSession.person_id.is_(None) & FaceSession.label.in_(list(names)))
