"""Somebody whom the database knows by a name only: an import or a session is to enrol them, and has not yet."""

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.db.erasures import Wanted
from app.db.job_files import forget_files
from app.db.session_models import FaceSession
from app.erasure.answers import erase_answers


def forget_name(session: Session, domain_id: int, name: str) -> dict[str, int]:
    """Delete what would bring them about, under the domain's lock.

    Returns:
        how many pieces there were, by place; empty where there was nothing to be deleted.
    """
    theirs = (FaceSession.domain_id == domain_id, FaceSession.person_id.is_(None), FaceSession.label == name)
    gone = session.scalars(
        delete(FaceSession).where(*theirs).returning(FaceSession.id),
        execution_options={"synchronize_session": False},
    ).all()
    counts = {"sessions": len(gone), "job_files": forget_files(session, domain_id, [name])}
    if not any(counts.values()):
        return {}
    return counts | {"kept_answers": erase_answers(session, domain_id, Wanted(None, frozenset({name})))}
