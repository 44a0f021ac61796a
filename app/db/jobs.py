"""Jobs in the database: handed to the queue, claimed, brought forward, ended.

A worker that has claimed a job knows it by its id and the number of the attempt. What it writes later counts only while that
attempt is the last and the job is running: one that was given up for dead, or whose job was cancelled, changes nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.db.work_models import Job
from app.tenancy import current_reach

_CLAIM_SQL: Final = """
UPDATE jobs SET state = 'running', attempts = attempts + 1, setbacks = setbacks + 1,
    started_at = coalesce(started_at, now()), error_code = NULL, error_message = NULL
WHERE id = :id AND state IN ('queued', 'running')
RETURNING kind, domain_id, person_id, arguments, attempts, setbacks, created_by, request_id, (
    SELECT name FROM domains WHERE domains.id = jobs.domain_id
)
"""
_PROGRESS_SQL: Final = """
UPDATE jobs SET done = :done, total = coalesce(:total, total), setbacks = CASE WHEN :done > done THEN 0 ELSE setbacks END
WHERE id = :id AND attempts = :attempt AND state = 'running' RETURNING true
"""
_STEP_SQL: Final = """
UPDATE jobs SET done = done + 1, setbacks = 0 WHERE id = :id AND attempts = :attempt AND state = 'running' RETURNING true
"""
_HAND_BACK_SQL: Final = """
UPDATE jobs SET state = 'queued', error_code = :code, error_message = :message
WHERE id = :id AND attempts = :attempt AND state = 'running' RETURNING true
"""
_END_SQL: Final = """
UPDATE jobs SET state = :state, finished_at = now(), error_code = :code, error_message = :message,
    result = coalesce(CAST(:result AS jsonb), result)
WHERE id = :id AND attempts = :attempt AND state = 'running' RETURNING true
"""
_IS_MINE_SQL: Final = "SELECT true FROM jobs WHERE id = :id AND attempts = :attempt AND state = 'running'"
_LOST_SQL: Final = """
SELECT unqueued_jobs(ARRAY(
    SELECT id FROM jobs WHERE state IN ('queued', 'running') AND finished_at IS NULL AND created_at < now() - :age
))
"""
_SWEEP_SQL: Final = """
DELETE FROM jobs WHERE id IN (
    SELECT id FROM jobs WHERE finished_at < now() - :keep ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED
) RETURNING true
"""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that a worker has begun.

    Attributes:
        attempt: which one this is, from 1.
        setbacks: attempts since the job last came on, this one included.
        domain: the name of its domain; None where it belongs to none.
        created_by: the client that asked for it.
    """

    id: UUID
    kind: str
    domain_id: int | None
    domain: str | None
    person_id: UUID | None
    arguments: Mapping[str, Any]
    attempt: int
    setbacks: int
    created_by: str
    request_id: str | None


def enqueue(
    session: Session,
    kind: str,
    *,
    domain_id: int | None,
    person_id: UUID | None = None,
    arguments: Mapping[str, Any] | None = None,
    total: int | None = None,
    request_id: str | None = None,
) -> UUID:
    """Have something done by a jobs worker, once the caller's transaction is committed; where it is not, nothing is.

    Args:
        kind: one of `app.jobs.kinds.KINDS`.
        person_id: where it is about one person only: it goes with them.
        arguments: JSON, ids and numbers only; the worker's queue has nothing but the job's id.
        total: how many things there are to be done, where it is known.

    Returns:
        the job's id.
    """
    job = Job(
        domain_id=domain_id,
        person_id=person_id,
        kind=kind,
        arguments=dict(arguments or {}),
        total=total,
        created_by=current_reach().client,
        request_id=request_id,
    )
    session.add(job)
    session.flush()
    hand_over(session, job.id)
    return job.id


def hand_over(session: Session, job_id: UUID) -> None:
    """Put a job that is there into the queue, in the caller's transaction."""
    session.execute(select(func.defer_job(job_id)))


def claim_job(session: Session, job_id: UUID) -> ClaimedJob | None:
    """Begin an attempt; None where the job has ended, or is gone."""
    row = session.execute(text(_CLAIM_SQL), {"id": job_id}).one_or_none()
    if row is None:
        return None
    kind, domain_id, person_id, arguments, attempt, setbacks, created_by, request_id, domain = row
    return ClaimedJob(job_id, kind, domain_id, domain, person_id, arguments, attempt, setbacks, created_by, request_id)


def is_mine(session: Session, job: ClaimedJob) -> bool:
    """Whether the attempt still counts."""
    return session.execute(text(_IS_MINE_SQL), _mine(job)).first() is not None


def report_progress(session: Session, job: ClaimedJob, done: int, total: int | None) -> bool:
    """Note how far the job is; False where the attempt counts no longer."""
    return session.execute(text(_PROGRESS_SQL), _mine(job) | {"done": done, "total": total}).first() is not None


def report_step(session: Session, job: ClaimedJob) -> bool:
    """Count one more thing as done, in the transaction that does it; False where the attempt counts no longer.

    The job's row stays locked until that transaction ends: who cancels the job waits for it.
    """
    return session.execute(text(_STEP_SQL), _mine(job)).first() is not None


def hand_back(session: Session, job: ClaimedJob, *, code: str | None = None, message: str | None = None) -> bool:
    """Have the job wait for its next attempt, which the caller has to see to."""
    values = _mine(job) | {"code": code, "message": message}
    return session.execute(text(_HAND_BACK_SQL), values).first() is not None


def end_job(
    session: Session,
    job: ClaimedJob,
    state: str,
    *,
    code: str | None = None,
    message: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> bool:
    """End the job as `succeeded` or `failed`; False where the attempt counts no longer."""
    values = {
        "state": state,
        "code": code,
        "message": message,
        "result": None if result is None else json.dumps(dict(result)),
    }
    return session.execute(text(_END_SQL), _mine(job) | values).first() is not None


def recover_jobs(session: Session, *, older_s: float) -> Sequence[UUID]:
    """Put jobs into the queue again that have not ended, and are not in it: nobody would ever begin them.

    Args:
        older_s: only those that were made longer ago.

    Returns:
        their ids.
    """
    lost = session.scalars(text(_LOST_SQL), {"age": timedelta(seconds=older_s)}).all()
    for job_id in lost:
        hand_over(session, job_id)
    return lost


def sweep_jobs(session: Session, *, keep_s: float, limit: int) -> int:
    """Delete jobs that ended longer ago than they are kept; at most `limit`. Returns how many."""
    values = {"keep": timedelta(seconds=keep_s), "limit": limit}
    return len(session.execute(text(_SWEEP_SQL), values).all())


def _mine(job: ClaimedJob) -> dict[str, Any]:
    return {"id": job.id, "attempt": job.attempt}
