"""The kind `import`: enrols the files of a bulk enrolment, each once, several at a time."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from uuid import UUID

from sqlalchemy.orm import Session

from app.db.job_files import count_files, count_try, read_waiting, settle_file, waiting_files
from app.db.jobs import report_step
from app.embedder.batch import pictures_at_once
from app.errors import DatabaseError, FacedexError, FilesFailed, PoolBusy, WorkerCrashed, WorkerTimeout
from app.jobs.context import JobContext, JobGone
from app.jobs.runner import is_transient
from app.tenancy import carried

_ROUND: Final = 32
_TRIES: Final = 3
_BUSY_PAUSE_S: Final = 0.5
_BUSY_PATIENCE_S: Final = 30.0


class _Erased(Exception):
    """The file's person was erased since it was looked at."""


def enrol_files(context: JobContext) -> None:
    """Enrol every file that waits; a file that fails for a reason that may pass waits for the next attempt.

    Raises:
        JobGone: it counts no longer.
        FacedexError: what files failed with that still wait.
        FilesFailed: workers took too long for some, or died of them, each time.
    """
    parallel = pictures_at_once(context.services.settings, _ROUND)
    after, left = -1, None

    def enrol(position: int) -> FacedexError | None:
        return _enrol(context, position)

    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="import") as threads:
        while positions := _next(context, after):
            after = positions[-1]
            errors = [error for error in threads.map(carried(enrol), positions) if error]
            if context.cancelled():
                return
            left = errors[0] if errors else left
            if len(errors) == len(positions):  # nothing goes: the pool is away, say
                break
    if left is not None:
        raise left
    with context.services.database.transaction() as session:
        counts = count_files(session, context.job_id)
    context.result = {state: counts.get(state, 0) for state in ("enrolled", "rejected")}
    if failed := counts.get("failed", 0):
        raise FilesFailed(f"{failed} files failed each time; another attempt takes them up again.")


def _next(context: JobContext, after: int) -> Sequence[int]:
    with context.services.database.transaction() as session:
        return waiting_files(session, context.job_id, after=after, limit=_ROUND)


def _enrol(context: JobContext, position: int) -> FacedexError | None:
    """Enrol one file, and note what became of it. The error where it has to wait for the next attempt."""
    if context.cancelled():
        return None
    try:
        with context.services.database.transaction() as session:
            file = read_waiting(session, context.job_id, position)
        if file is None:
            return None
        return _settle_error(context, position, _enrol_patiently(context, position, file.label, file.picture))
    except _Erased:
        return None
    except DatabaseError as error:
        return error


def _enrol_patiently(context: JobContext, position: int, label: str, picture: bytes) -> FacedexError | None:
    """As it comes; others go before where the pool is busy."""

    def settle(session: Session, face_id: UUID) -> None:
        if not report_step(session, context.job):
            raise JobGone
        if not settle_file(session, context.job_id, position, "enrolled", face_id=face_id):
            raise _Erased

    until_s = time.monotonic() + _BUSY_PATIENCE_S
    while True:
        try:
            context.services.faces.enrol_file(
                context.domain,
                label,
                picture,
                client=context.job.created_by,
                request_id=context.job.request_id or "",
                settle=settle,
            )
            return None
        except PoolBusy as error:
            if time.monotonic() > until_s or context.cancelled():
                return error
            time.sleep(_BUSY_PAUSE_S)
        except FacedexError as error:
            return error


def _settle_error(context: JobContext, position: int, error: FacedexError | None) -> FacedexError | None:
    """Note that a file was rejected, or failed for good; hand back the error of one that waits."""
    if error is None:
        return None
    if is_transient(error):
        if not isinstance(error, WorkerCrashed | WorkerTimeout):
            return error
        with context.services.database.transaction() as session:
            if count_try(session, context.job_id, position) < _TRIES:
                return error
    state = "failed" if is_transient(error) else "rejected"
    with context.services.database.transaction() as session:
        if not report_step(session, context.job):
            raise JobGone
        if not settle_file(session, context.job_id, position, state, code=error.code, message=str(error)):
            raise _Erased
    return None
