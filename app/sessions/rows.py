"""Sessions in the database: found, locked against other connections, ended, swept."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from app.db.models import Domain, Person
from app.db.session_models import FaceSession, FaceSessionFrame
from app.errors import SessionEnded, SessionExpired, SessionKeyEnded, SessionNotFound, SessionTakenOver
from app.sessions.limits import Kind, SessionLimits

_LATE: Final = (FaceSession.state == "open") & (FaceSession.expires_at <= func.statement_timestamp())
_SWEEP_SQL: Final = """
UPDATE face_sessions SET state = 'expired', finished_at = statement_timestamp() WHERE id IN (
    SELECT id FROM face_sessions WHERE state = 'open' AND expires_at <= statement_timestamp()
    ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
) RETURNING id
"""
_REMOVE_SQL: Final = """
DELETE FROM face_sessions WHERE id IN (
    SELECT id FROM face_sessions WHERE finished_at < statement_timestamp() - CAST(:keep AS interval)
    LIMIT :limit FOR UPDATE SKIP LOCKED
) RETURNING true
"""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as others see it.

    Attributes:
        label: what the person is called now.
        person_id: None until whoever is enrolled exists.
        state: `open`, `succeeded` (enrolled, or verified), `failed`, `expired`, `cancelled`.
        created_by: the client.
        frames: at most so many have been looked at; exact once it has ended.
        progress: what it has come to so far.
        result: once it is decided.
    """

    id: UUID
    domain: str
    kind: Kind
    label: str
    person_id: UUID | None
    state: str
    limits: SessionLimits
    created_by: str
    frames: int
    progress: dict[str, Any]
    result: dict[str, Any] | None
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | None


def read_session(session: Session, session_id: UUID | None) -> SessionInfo:
    """What there is to say of a session within reach; whose time is over has expired, whether it was swept or not.

    Raises:
        SessionNotFound: none.
    """
    query = (
        select(FaceSession, Domain.name, Person.label, _LATE)
        .join(Domain, Domain.id == FaceSession.domain_id)
        .outerjoin(Person, (Person.domain_id == FaceSession.domain_id) & (Person.id == FaceSession.person_id))
        .where(FaceSession.id == session_id)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise not_found()
    return _info(*found)


def lock_session(session: Session, session_id: UUID, connection: int | None = None) -> FaceSession:
    """The session, until the transaction ends nobody else's; it takes frames still.

    Args:
        connection: which one of its connections asks; None is somebody else.

    Raises:
        SessionNotFound: it is gone, with its person or its domain.
        SessionEnded, SessionExpired: it takes no more frames.
        SessionTakenOver: a newer connection goes on with it.
        SessionKeyEnded: the key that made it may do nothing any more.
    """
    query = select(FaceSession, _LATE, func.client_may_act(FaceSession.created_by)).where(FaceSession.id == session_id)
    found = session.execute(query.with_for_update(), execution_options={"populate_existing": True}).one_or_none()
    if found is None:
        raise not_found()
    row: FaceSession = found[0]
    late, may_act = found[1:]
    if late or row.state == "expired":
        raise SessionExpired("The session's time is over.")
    if row.state != "open":
        raise SessionEnded(f"The session has ended: {row.state}.")
    if connection is not None and row.connection != connection:
        raise SessionTakenOver("Another connection goes on with this session.")
    if not may_act:
        raise SessionKeyEnded("The key that made this session was revoked, or has expired.")
    return row


def end_session(session: Session, row: FaceSession, state: str, result: dict[str, Any] | None = None) -> None:
    """End a session that is locked, and forget its frames."""
    row.state, row.result = state, result
    row.finished_at = func.statement_timestamp()
    session.execute(delete(FaceSessionFrame).where(FaceSessionFrame.session_id == row.id))
    session.flush()


def count_open(session: Session, domain_id: int) -> int:
    """How many sessions of a domain take frames."""
    query = select(func.count()).where(FaceSession.domain_id == domain_id, FaceSession.state == "open", ~_LATE)
    return session.scalar(query) or 0


def expire_sessions(session: Session, limit: int) -> int:
    """End sessions whose time is over, some at a time, and delete their frames. Returns how many."""
    ids = session.scalars(text(_SWEEP_SQL), {"limit": limit}).all()
    session.execute(delete(FaceSessionFrame).where(FaceSessionFrame.session_id.in_(ids)))
    return len(ids)


def remove_sessions(session: Session, keep: timedelta, limit: int) -> int:
    """Remove sessions that ended longer ago than that, some at a time. Returns how many."""
    return len(session.scalars(text(_REMOVE_SQL), {"keep": keep, "limit": limit}).all())


def mark_expired(session: Session, session_id: UUID) -> None:
    """End this one, where its time is over."""
    gone = session.scalars(
        update(FaceSession)
        .where(FaceSession.id == session_id, _LATE)
        .values(state="expired", finished_at=func.statement_timestamp())
        .returning(FaceSession.id)
    ).all()
    session.execute(delete(FaceSessionFrame).where(FaceSessionFrame.session_id.in_(gone)))


def not_found() -> SessionNotFound:
    """The error of a session that is not there."""
    return SessionNotFound("There is no such session; those of persons who were erased are gone with them.")


def _info(row: FaceSession, domain: str, label: str | None, late: bool) -> SessionInfo:
    return SessionInfo(
        id=row.id,
        domain=domain,
        kind=Kind(row.kind),
        label=label or row.label,
        person_id=row.person_id,
        state="expired" if late else row.state,
        limits=SessionLimits.from_json(row.limits),
        created_by=row.created_by,
        frames=row.frames,
        progress={name: value for name, value in row.progress.items() if name in _SHOWN},
        result=row.result,
        created_at=row.created_at,
        expires_at=row.expires_at,
        finished_at=row.finished_at,
    )


# The rest is for whoever resumes the session.
_SHOWN: Final = frozenset({"templates", "wanted", "good_frames", "distance"})
