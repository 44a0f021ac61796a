"""The files of bulk enrolments: stored with their job, settled one by one, forgotten with their person."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.orm import Session, defer

from app.db.work_models import Job, JobFile

_BATCH_BYTES: Final = 4 * 1024 * 1024
_BATCH_FILES: Final = 500

_SETTLE_SQL: Final = """
UPDATE job_files SET state = :state, face_id = :face_id, error_code = :code, error_message = :message,
    picture = CASE WHEN :state = 'failed' THEN picture END
WHERE job_id = :job_id AND position = :position AND state = 'waiting' RETURNING true
"""
_TRIED_SQL: Final = """
UPDATE job_files SET tries = tries + 1 WHERE job_id = :job_id AND position = :position AND state = 'waiting' RETURNING tries
"""
# Nobody's files are those whose names are no good: they may name the person all the same.
_THEIRS: Final = """
(label = ANY (:labels) OR label = '' AND EXISTS (
    SELECT FROM unnest(CAST(:labels AS text[])) AS name WHERE strpos(file_name, name) > 0
))
"""
# Of each job, what is settled of the files that go is taken off both numbers, and what waits off the total.
_FORGET_SQL: Final = """
WITH gone AS (
    DELETE FROM job_files WHERE domain_id = :domain_id AND {theirs} RETURNING job_id, state
), counted AS (
    SELECT job_id, count(*) AS files, count(*) FILTER (WHERE state <> 'waiting') AS settled FROM gone GROUP BY job_id
), changed AS (
    UPDATE jobs SET total = greatest(0, total - files), done = greatest(0, done - settled)
    FROM counted WHERE jobs.id = counted.job_id
)
SELECT coalesce(sum(files), 0) FROM counted
"""
_LOCK_JOBS_SQL: Final = """
SELECT id FROM jobs WHERE id IN (SELECT job_id FROM job_files WHERE domain_id = :domain_id AND {theirs})
ORDER BY id FOR UPDATE
"""
_AGAIN_SQL: Final = """
WITH again AS (
    UPDATE job_files SET state = 'waiting', tries = 0, error_code = NULL, error_message = NULL
    WHERE job_id = :job_id AND state = 'failed' RETURNING true
)
UPDATE jobs SET done = greatest(0, done - (SELECT count(*) FROM again)) WHERE id = :job_id
"""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file of an upload: `picture` where it is to be enrolled, else why it is not.

    Attributes:
        label: whose it is; empty where nobody can tell.
        name: what the client calls it, fit to be stored.
    """

    label: str
    name: str
    image_sha256: bytes | None = None
    picture: bytes | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file to be enrolled."""

    position: int
    label: str
    picture: bytes


def store_files(session: Session, job_id: UUID, domain_id: int, files: Iterable[NewFile]) -> tuple[int, int]:
    """Store the files of a job, a few megabytes at a time.

    Returns:
        how many there are, and how many of them are settled already, being no pictures.
    """
    count = settled = 0
    for batch in _batches(files):
        rows = [
            {
                "job_id": job_id,
                "position": position,
                "domain_id": domain_id,
                "label": file.label,
                "file_name": file.name,
                "image_sha256": file.image_sha256,
                "picture": file.picture,
                "state": "rejected" if file.picture is None else "waiting",
                "error_code": file.error_code,
                "error_message": file.error_message,
            }
            for position, file in enumerate(batch, start=count)
        ]
        session.execute(insert(JobFile), rows)
        count += len(rows)
        settled += sum(row["picture"] is None for row in rows)
    return count, settled


def waiting_files(session: Session, job_id: UUID, *, after: int, limit: int) -> Sequence[int]:
    """Positions of files that wait, in order."""
    query = select(JobFile.position).where(
        JobFile.job_id == job_id, JobFile.state == "waiting", JobFile.position > after
    )
    return session.scalars(query.order_by(JobFile.position).limit(limit)).all()


def read_waiting(session: Session, job_id: UUID, position: int) -> WaitingFile | None:
    """A file that waits; None where it is settled, or was erased."""
    query = select(JobFile.label, JobFile.picture).where(
        JobFile.job_id == job_id, JobFile.position == position, JobFile.state == "waiting"
    )
    row = session.execute(query).one_or_none()
    return None if row is None or row.picture is None else WaitingFile(position, row.label, bytes(row.picture))


def settle_file(
    session: Session,
    job_id: UUID,
    position: int,
    state: str,
    *,
    face_id: UUID | None = None,
    code: str | None = None,
    message: str | None = None,
) -> bool:
    """Note what became of a file: `enrolled`, `rejected`, or `failed`, which keeps the picture for another attempt.

    Returns:
        whether it was waiting until now; else it is settled, or was erased, and nothing is to be stored of it.
    """
    values = {"state": state, "face_id": face_id, "code": code, "message": message}
    found = session.execute(text(_SETTLE_SQL), values | {"job_id": job_id, "position": position})
    return found.first() is not None


def count_try(session: Session, job_id: UUID, position: int) -> int:
    """One more try at a file; returns how many there were. Of one that is settled, or was erased, zero."""
    return session.scalar(text(_TRIED_SQL), {"job_id": job_id, "position": position}) or 0


def wait_again(session: Session, job_id: UUID) -> None:
    """Have the failed files of a job wait once more; under the job's lock."""
    session.execute(text(_AGAIN_SQL), {"job_id": job_id})


def forget_files(session: Session, domain_id: int, labels: Sequence[str]) -> int:
    """Delete the files of a person, whatever became of them, under the domain's lock. Returns how many there were.

    Whoever enrols one of them at this moment finds it gone, and stores nothing.
    """
    values: dict[str, Any] = {"domain_id": domain_id, "labels": list(labels)}
    session.execute(text(_LOCK_JOBS_SQL.format(theirs=_THEIRS)), values)
    return int(
        session.scalar(text(_FORGET_SQL.format(theirs=_THEIRS)), values) or 0
    )  # of bigints, the sum is a numeric


def rename_files(session: Session, domain_id: int, names: Iterable[str | None], new_label: str) -> None:
    """Give a person's files their new label, so that those that wait bring nobody back.

    Args:
        names: what the person was called so far: label, external id, id.
    """
    theirs = JobFile.label.in_([name for name in names if name is not None])
    changed = update(JobFile).where(JobFile.domain_id == domain_id, theirs).values(label=new_label)
    session.execute(changed, execution_options={"synchronize_session": False})


def files_of(session: Session, domain_id: int, labels: Sequence[str]) -> Sequence[JobFile]:
    """The files that call a person by one of these names, without their pictures; by job, in its order."""
    query = (
        select(JobFile)
        .options(defer(JobFile.picture, raiseload=True))
        .where(JobFile.domain_id == domain_id, JobFile.label.in_(labels))
    )
    return session.scalars(query.order_by(JobFile.job_id, JobFile.position)).all()


def count_files(session: Session, job_id: UUID) -> dict[str, int]:
    """How many files of a job are in which state; empty where it has none."""
    query = select(JobFile.state, func.count()).where(JobFile.job_id == job_id).group_by(JobFile.state)
    return {row[0]: row[1] for row in session.execute(query)}


def page_of_files(session: Session, job: Job, *, state: str | None, after: int, limit: int) -> Sequence[JobFile]:
    """Files of a job by position, without their pictures."""
    query = (
        select(JobFile)
        .options(defer(JobFile.picture, raiseload=True))
        .where(JobFile.job_id == job.id, JobFile.position > after)
    )
    if state is not None:
        query = query.where(JobFile.state == state)
    return session.scalars(query.order_by(JobFile.position).limit(limit)).all()


def _batches(files: Iterable[NewFile]) -> Iterator[list[NewFile]]:
    batch: list[NewFile] = []
    held = 0
    for file in files:
        batch.append(file)
        held += len(file.picture or b"")
        if held >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
