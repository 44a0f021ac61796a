"""Jobs as those see them who asked for them: read, list, cancel, try again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from app.audit import record
from app.db.job_files import count_files, page_of_files, wait_again
from app.db.jobs import hand_over
from app.db.models import Domain
from app.db.session import Database
from app.db.work_models import Job
from app.enrolment.lookup import find_domain
from app.errors import InvalidRequest, JobEnded, JobNotEnded, JobNotFound
from app.names import as_uuid
from app.pages import Page, decode_cursor, encode_cursor

ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
_FILE_STATES: Final = ("waiting", "enrolled", "rejected", "failed")


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job.

    Attributes:
        domain: its domain's name; None where it belongs to none.
        done, total: of what it works on; `total` is None where it is not known.
        files: of a bulk enrolment, how many are in which state; None of other jobs, and in lists.
        error_code, error_message: why it failed, or why its last attempt did where it waits for another.
    """

    id: UUID
    kind: str
    domain: str | None
    person_id: UUID | None
    state: str
    attempts: int
    done: int
    total: int | None
    files: Mapping[str, int] | None
    result: Mapping[str, Any] | None
    error_code: str | None
    error_message: str | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobFileInfo:
    """A file of a bulk enrolment and what became of it; `label` is None where nobody can tell whose it is."""

    position: int
    file: str
    label: str | None
    state: str
    face_id: UUID | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class QueueReport:
    """How many jobs there are of each kind and state, and how many seconds the oldest of those that wait has waited."""

    counts: Mapping[tuple[str, str], int]
    oldest_s: float


class JobService:
    """The operations on jobs. `job_id` in the arguments is text: of one that is none, there is no job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, job_id: str) -> JobInfo:
        """One job.

        Raises:
            JobNotFound: as its name says.
        """
        with self._database.transaction() as session:
            return _info(session, _find(session, job_id))

    def list(
        self,
        *,
        domain: str | None = None,
        state: str | None = None,
        kind: str | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[JobInfo]:
        """Jobs, the latest first.

        Raises:
            DomainNotFound: no such domain.
            InvalidRequest: the cursor is not one of ours.
        """
        with self._database.transaction() as session:
            query = select(Job, Domain.name).outerjoin(Domain, Domain.id == Job.domain_id)
            if domain is not None:
                query = query.where(Job.domain_id == find_domain(session, domain).id)
            if state is not None:
                query = query.where(Job.state == state)
            if kind is not None:
                query = query.where(Job.kind == kind)
            if cursor is not None:
                query = query.where(tuple_(Job.created_at, Job.id) < tuple_(*_job_key(cursor)))
            rows = session.execute(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)).all()
        found = [_info_of(job, name, None) for job, name in rows[:limit]]
        last = found[-1] if len(rows) > limit else None
        return Page(found, encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None)

    def files(self, job_id: str, *, state: str | None, limit: int, cursor: str | None) -> Page[JobFileInfo]:
        """The files of a bulk enrolment, in its order; none of other jobs.

        Raises:
            JobNotFound: as its name says.
            InvalidRequest: the cursor is not one of ours.
        """
        after = -1 if cursor is None else _position(cursor)
        with self._database.transaction() as session:
            rows = page_of_files(session, _find(session, job_id), state=state, after=after, limit=limit + 1)
        found = [
            JobFileInfo(
                row.position,
                row.file_name,
                row.label or None,
                row.state,
                row.face_id,
                row.error_code,
                row.error_message,
            )
            for row in rows[:limit]
        ]
        return Page(found, encode_cursor(str(found[-1].position)) if len(rows) > limit else None)

    def cancel(self, job_id: str) -> JobInfo:
        """End a job that has not ended: once this is answered, nothing more of it is done. What it has done stays.

        Raises:
            JobNotFound, JobEnded: as their names say.
        """
        with self._database.transaction() as session:
            job = _find(session, job_id, lock=True)
            if job.state in ENDED:
                raise JobEnded(f"The job has {job.state} already." if job.state != "cancelled" else "It was cancelled.")
            job.state, job.finished_at = "cancelled", func.now()
            session.flush()
            session.refresh(job)
            info = _info(session, job)
            record(session, "job.cancelled", domain_id=job.domain_id, job=str(job.id), kind=job.kind)
            return info

    def retry(self, job_id: str) -> JobInfo:
        """Have a job that failed or was cancelled go on where it stopped.

        Raises:
            JobNotFound, JobNotEnded: as their names say.
        """
        with self._database.transaction() as session:
            job = _find(session, job_id, lock=True)
            if job.state not in ("failed", "cancelled"):
                raise JobNotEnded("Only a job that failed or was cancelled can be tried again.")
            job.state, job.finished_at, job.setbacks, job.error_code, job.error_message = "queued", None, 0, None, None
            session.flush()
            wait_again(session, job.id)
            hand_over(session, job.id)
            session.refresh(job)
            info = _info(session, job)
            record(session, "job.retried", domain_id=job.domain_id, job=str(job.id), kind=job.kind)
            return info

    def report(self) -> QueueReport:
        """How the queue is. Everything has to be within reach.

        Raises:
            DatabaseError: as its name says.
        """
        with self._database.transaction(2.0) as session:
            rows = session.execute(select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)).all()
            oldest = session.scalar(
                select(func.extract("epoch", func.now() - func.min(Job.created_at))).where(
                    Job.state == "queued", Job.finished_at.is_(None)
                )
            )
        return QueueReport({(kind, state): count for kind, state, count in rows}, float(oldest or 0))


def info_of(session: Session, job_id: UUID) -> JobInfo:
    """A job, for who has just made it."""
    return _info(session, session.get_one(Job, job_id, populate_existing=True))


def _find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    wanted = as_uuid(job_id)
    query = select(Job).where(Job.id == wanted)
    job = session.scalars(query.with_for_update() if lock else query).one_or_none() if wanted else None
    if job is None:
        raise JobNotFound("There is no such job.")
    return job


def _info(session: Session, job: Job) -> JobInfo:
    name = session.scalar(select(Domain.name).where(Domain.id == job.domain_id))
    counts = count_files(session, job.id)
    return _info_of(job, name, {state: counts.get(state, 0) for state in _FILE_STATES} if counts else None)


def _info_of(job: Job, domain: str | None, files: Mapping[str, int] | None) -> JobInfo:
    return JobInfo(
        id=job.id,
        kind=job.kind,
        domain=domain,
        person_id=job.person_id,
        state=job.state,
        attempts=job.attempts,
        done=job.done,
        total=job.total,
        files=files,
        result=job.result,
        error_code=job.error_code,
        error_message=job.error_message,
        created_by=job.created_by,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _job_key(cursor: str) -> Sequence[Any]:
    created_at, job_id = decode_cursor(cursor, 2)
    try:
        return datetime.fromisoformat(created_at), UUID(job_id)
    except ValueError:
        raise InvalidRequest("The cursor is not one that this service gave.") from None


def _position(cursor: str) -> int:
    (position,) = decode_cursor(cursor, 1)
    if not (position.isascii() and position.isdecimal() and len(position) < 10):
        raise InvalidRequest("The cursor is not one that this service gave.")
    return int(position)
