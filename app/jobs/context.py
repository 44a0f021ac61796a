"""What a kind of job gets to work with."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from app.db.jobs import ClaimedJob, is_mine, report_progress
from app.errors import DatabaseError

if TYPE_CHECKING:
    from app.api.wiring import Services

_LOOK_EVERY_S: Final = 0.5


class JobGone(Exception):
    """The job was cancelled or erased, or another worker has it: what this one does counts no longer."""


class JobContext:
    """One attempt at a job. It acts within the reach of the job's own domain, in the name of who asked for it.

    Attributes:
        services: everything that views and commands use.
        job: what was claimed.
        result: JSON, ids and numbers only, that is kept with a job that succeeds; None: nothing.
    """

    def __init__(self, services: "Services", job: ClaimedJob, stopping: threading.Event) -> None:
        self.services = services
        self.job = job
        self.result: dict[str, Any] | None = None
        self.was_stopped = False
        self._stopping = stopping
        self._looked_s = time.monotonic()
        self._gone = False

    @property
    def job_id(self) -> UUID:
        """The job's id."""
        return self.job.id

    @property
    def domain_id(self) -> int:
        """The number of the job's domain."""
        assert self.job.domain_id is not None
        return self.job.domain_id

    @property
    def domain(self) -> str:
        """The name of the job's domain."""
        assert self.job.domain is not None
        return self.job.domain

    @property
    def person_id(self) -> UUID | None:
        """Whom the job is about, where it is about one person only."""
        return self.job.person_id

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the job was enqueued with."""
        return self.job.arguments

    def progress(self, done: int, total: int | None = None) -> None:
        """Note how far the job is.

        Raises:
            JobGone: it counts no longer.
            DatabaseError: as its name says.
        """
        with self.services.database.transaction() as session:
            if not report_progress(session, self.job, done, total):
                raise JobGone

    def cancelled(self) -> bool:
        """Whether to stop now, between two things that are done: cancelled, gone, or the worker itself is to stop.

        Cheap enough to be asked often. Where it is the worker, the job is taken up again by another.
        """
        if self._stopping.is_set():
            self.was_stopped = True
        if self.was_stopped or self._gone:
            return True
        if time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            try:
                with self.services.database.transaction() as session:
                    self._gone = not is_mine(session, self.job)
            except DatabaseError:  # the next thing that is done will tell
                return False
        return self._gone


Handler = Callable[[JobContext], None]
