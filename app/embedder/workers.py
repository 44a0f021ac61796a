"""The pool's side of its processes: starts them, hands jobs to them, and knows what each is doing."""

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import structlog

from app.embedder.framing import Message
from app.embedder.job import Job
from app.embedder.worker import EXIT_NOT_LOADED, EXIT_OUT_OF_MEMORY, MAX_EVENT_BYTES

log = structlog.stdlib.get_logger("facedex.worker")

State = Literal["loading", "idle", "busy", "failed"]
STATES: Final[tuple[State, ...]] = ("loading", "idle", "busy", "failed")

# The longest that loading a model may take.
LOAD_LIMIT_S: Final = 120.0
# A worker that still has not answered so long after its job's deadline hangs.
_HANG_GRACE_S: Final = 1.0
# Nor does one that was given its job a moment before that deadline, and has had it for less than this.
_HANG_LEAST_S: Final = 5.0
# A process that has closed its end of the socket, and yet does not end, is ended.
_GONE_WITHIN_S: Final = 2.0
_RESTART_FIRST_S: Final = 0.5
_RESTART_MAX_S: Final = 15.0

# Workers of one age are not all replaced at the same time.
_ENDURANCE_MAX: Final = 1.1

_EXIT_CAUSES: Final = {EXIT_OUT_OF_MEMORY: "memory", EXIT_NOT_LOADED: "not_loaded"}


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """A process of the pool.

    Attributes:
        pid, control: the process, and our end of the socket to it.
        job, job_since_s: what it is working on, and since when.
        loaded: whether its model is.
        contract: of that model.
        problem: why it could not load it.
        jobs: how many it has done.
        rss_bytes: its memory after the last.
        kill_cause: why the pool has killed it.
        at_risk: whether it is the first to do with its picture what it does.
        retired: whether another has its place, and it only ends what it is doing.
        gone_s: when it closed its end of the socket.
        endurance: of the jobs after which a worker is replaced, it does so many times as many.
    """

    pid: int
    control: socket.socket
    started_s: float = field(default_factory=time.monotonic)
    job: Job | None = None
    job_since_s: float = 0.0
    loaded: bool = False
    contract: str | None = None
    problem: str | None = None
    jobs: int = 0
    rss_bytes: int = 0
    kill_cause: str | None = None
    at_risk: bool = False
    retired: bool = False
    gone_s: float | None = None
    endurance: float = field(default_factory=lambda: random.uniform(1.0, _ENDURANCE_MAX))  # noqa: S311 - no secret

    @classmethod
    def fork(cls, run: Callable[[socket.socket], int], release: Callable[[], None]) -> "WorkerProcess":
        """Start a process that calls `run` with its end of the socket, and ends with what that returns.

        Args:
            release: called in the new process first: gives up what it has inherited and is none of its business.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pool = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                release()
                if os.getppid() == pool:
                    code = run(theirs)
            except BaseException:
                log.exception("[WORKER] Ended by an unexpected exception")
            finally:
                # Not sys.exit: the pool's own frames are below this one, and must not be gone through.
                os._exit(code)
        theirs.close()
        return cls(pid, ours)

    @property
    def state(self) -> State:
        """What it is doing."""
        if self.problem is not None:
            return "failed"
        if not self.loaded:
            return "loading"
        return "idle" if self.job is None else "busy"

    @property
    def is_free(self) -> bool:
        """Whether it can be given a job."""
        return self.state == "idle"

    def give(self, job: Job, connection: socket.socket) -> bool:
        """Hand over a job and its client's connection; False where the process is gone."""
        try:
            socket.send_fds(self.control, [json.dumps(job.to_message()).encode()], [connection.fileno()])
        except OSError:
            return False
        self.job, self.job_since_s = job, time.monotonic()
        return True

    def event(self) -> Message | None:
        """What it has to say; None when it is gone."""
        try:
            data = self.control.recv(MAX_EVENT_BYTES)
            event: Message | None = json.loads(data) if data else None
        except (OSError, ValueError):
            return None
        return event

    def overdue(self) -> str | None:
        """For what it has to be killed now, if for anything."""
        now_s = time.monotonic()
        if self.kill_cause is not None or self.problem is not None:
            return None
        if not self.loaded:
            return "load_timeout" if now_s > self.started_s + LOAD_LIMIT_S else None
        if self.job is None:
            return None
        return "hang" if now_s > max(self.job.deadline.at_s + _HANG_GRACE_S, self.job_since_s + _HANG_LEAST_S) else None

    def kill(self, cause: str) -> None:
        """End it at once; `cause` is what it is put down to."""
        self.kill_cause = cause
        os.kill(self.pid, signal.SIGKILL)

    def retire(self) -> None:
        """Ask it to end after what it is doing."""
        try:
            self.control.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone already

    def reap(self) -> str | None:
        """What a process has ended of that has closed its end of the socket; None where it is not quite gone.

        To free the memory of a large picture takes the kernel up to a second, which nobody waits for.
        """
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if self.gone_s is not None and time.monotonic() > self.gone_s + _GONE_WITHIN_S:
                os.kill(self.pid, signal.SIGKILL)
            return None
        if self.kill_cause is not None:
            return self.kill_cause
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return signal.Signals(-code).name.lower()
        return "ended" if code == 0 else _EXIT_CAUSES.get(code, "error")


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one worker: the process that fills it, and the one that is to follow.

    Attributes:
        name: of the worker, in logs and metrics.
        model: name of its pack.
        process: None while it is down.
        successor: is loading its model while `process` still works.
        problem: why the last process could not load the model.
        restart_at_s: when it is started again.
    """

    name: str
    model: str
    process: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    problem: str | None = None
    restart_at_s: float = 0.0
    _pause_s: float = 0.0

    @property
    def state(self) -> State:
        """What its worker is doing."""
        if self.process is None or self.process.state == "loading":
            return "failed" if self.problem else "loading"
        return self.process.state

    def came_up(self) -> None:
        """Its process has loaded the model."""
        self.problem = None

    def has_worked(self) -> None:
        """Its process has done a job: what comes next is no repetition of what was before."""
        self._pause_s = 0.0

    def plan_restart(self, *, at_once: bool) -> None:
        """Say when the next process is started: at once, or after a pause that doubles where it never came up."""
        if at_once:
            self.restart_at_s = 0.0
            return
        self._pause_s = min(self._pause_s * 2 or _RESTART_FIRST_S, _RESTART_MAX_S)
        self.restart_at_s = time.monotonic() + self._pause_s
