"""One attempt at one job: claim it, do it within its own domain's reach, note how it ended."""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from app.config import Settings
from app.db.jobs import ClaimedJob, claim_job, end_job, hand_back
from app.db.session import Database
from app.errors import DatabaseDisabled, DatabaseError, EmbedderError, FacedexError, StorageError
from app.jobs.context import Handler, JobContext, JobGone
from app.tenancy import Reach, acting, everything

if TYPE_CHECKING:
    from app.api.wiring import Services

log = structlog.stdlib.get_logger("facedex.jobs")

CLIENT: Final = "jobs"
"""Who claims jobs and sweeps them; the jobs themselves act for whoever asked for them."""

_PAUSE_FIRST_S: Final = 1.0
_PAUSE_MAX_S: Final = 300.0
_INTERNAL: Final = ("internal_error", "The job failed because of an error in the service; its log has the details.")
_GAVE_UP: Final = (
    "gave_up",
    "The job was begun too often without coming on: its workers died or were stopped each time.",
)


class AgainLater(Exception):
    """The attempt failed for a reason that may pass, or was broken off: there has to be another one.

    Args:
        after_s: seconds until then.
    """

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self.after_s = after_s


def pause_s(setbacks: int) -> float:
    """Seconds to wait after so many attempts in vain: each time twice as long, up to five minutes."""
    return float(min(_PAUSE_FIRST_S * 2 ** min(max(0, setbacks - 1), 30), _PAUSE_MAX_S))


def is_transient(error: FacedexError) -> bool:
    """Whether the same may succeed later: the database, the pool or the disk is the reason."""
    return isinstance(error, DatabaseError | EmbedderError | StorageError) and not isinstance(error, DatabaseDisabled)


class Runner:
    """Runs attempts, each in the thread that calls it; several at a time.

    Args:
        services: makes the services, in the first thread that needs them.
        stopping: set when the process is to end: jobs are handed back between two things they do.
    """

    def __init__(
        self,
        settings: Settings,
        services: "Callable[[], Services]",
        kinds: Mapping[str, Handler],
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._make_services = services
        self._kinds = kinds
        self._stopping = stopping
        self._lock = threading.Lock()
        self._services: Services | None = None
        self._running = 0

    @property
    def is_idle(self) -> bool:
        """Whether no job is in work."""
        return self._running == 0

    @property
    def services(self) -> "Services":
        """The services of this process."""
        with self._lock:
            if self._services is None:
                self._services = self._make_services()
            return self._services

    def run(self, job_id: UUID, tries: int) -> None:
        """Make one attempt.

        Args:
            tries: how often the queue has handed the job out before.

        Raises:
            AgainLater: there has to be another one.
        """
        with self._lock:
            self._running += 1
        try:
            self._run(job_id, tries)
        finally:
            with self._lock:
                self._running -= 1

    def _run(self, job_id: UUID, tries: int) -> None:
        database = self.services.database
        try:
            with acting(everything(CLIENT)), database.transaction() as session:
                job = claim_job(session, job_id)
        except DatabaseError:
            raise AgainLater(pause_s(tries)) from None
        if job is None:
            return
        with (
            acting(_reach_of(job)),
            structlog.contextvars.bound_contextvars(job=str(job_id), request_id=job.request_id),
        ):
            if job.setbacks > self._settings.jobs_max_attempts:
                self._end(database, job, "failed", *_GAVE_UP)
                return
            self._attempt(job)

    def _attempt(self, job: ClaimedJob) -> None:
        database = self.services.database
        context = JobContext(self.services, job, self._stopping)
        try:
            handler = self._kinds.get(job.kind)
            if handler is None:  # a newer web than this worker
                raise LookupError(f"no handler for {job.kind}")
            handler(context)
        except JobGone:
            return
        except FacedexError as error:
            self._failed(database, job, error)
            return
        except Exception:
            log.exception("[JOBS] A job failed unexpectedly", kind=job.kind)
            self._end(database, job, "failed", *_INTERNAL)
            return
        if context.was_stopped:
            self._again(database, job, None, 0)
        self._end(database, job, "succeeded", result=context.result)

    def _failed(self, database: Database, job: ClaimedJob, error: FacedexError) -> None:
        log.info(f"[JOBS] Not done: {error.code}", kind=job.kind, attempt=job.attempt)
        if is_transient(error) and job.setbacks < self._settings.jobs_max_attempts:
            self._again(database, job, error, pause_s(job.setbacks))
        self._end(database, job, "failed", error.code, str(error))

    def _again(self, database: Database, job: ClaimedJob, error: FacedexError | None, after_s: float) -> None:
        """Have the queue hand the job out again, unless it counts no longer."""
        try:
            with database.transaction() as session:
                code, message = (None, None) if error is None else (error.code, str(error))
                if not hand_back(session, job, code=code, message=message):
                    return
        except DatabaseError:
            pass  # it is still running by its row: whoever claims it next takes it over
        raise AgainLater(after_s)

    def _end(
        self,
        database: Database,
        job: ClaimedJob,
        state: str,
        code: str | None = None,
        message: str | None = None,
        result: dict[str, object] | None = None,
    ) -> None:
        try:
            with database.transaction() as session:
                end_job(session, job, state, code=code, message=message, result=result)
        except DatabaseError:
            raise AgainLater(pause_s(job.setbacks)) from None


def _reach_of(job: ClaimedJob) -> Reach:
    """The job's own domain and nothing else, in the name of who asked for it."""
    if job.domain_id is None or job.domain is None:
        return Reach(job.created_by)
    return Reach(job.created_by, frozenset({job.domain}), frozenset({job.domain_id}))
