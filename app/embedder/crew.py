"""The workers of one model, and the jobs that wait for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

import structlog

from app.embedder.framing import Message
from app.embedder.job import Job
from app.embedder.lanes import Lanes
from app.embedder.pool_metrics import PoolMetrics
from app.embedder.waiting import Waiting
from app.embedder.workers import Slot, WorkerProcess

log = structlog.stdlib.get_logger("facedex.worker")

_POLL_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class RecycleLimits:
    """After what a worker is replaced, between two jobs: 0 is never.

    Attributes:
        jobs: so many jobs.
        rss_bytes: more memory than this.
    """

    jobs: int
    rss_bytes: int


class Crew:
    """Keeps `size` workers of a model alive."""

    def __init__(
        self,
        model: str,
        size: int,
        *,
        lanes: Lanes,
        limits: RecycleLimits,
        fork: Callable[[Slot], WorkerProcess],
        metrics: PoolMetrics,
    ) -> None:
        self.model = model
        self.slots = [Slot(f"{model}-{number}", model) for number in range(1, size + 1)]
        self.lanes = lanes
        self._limits = limits
        self._fork = fork
        self._metrics = metrics
        self._retired: list[WorkerProcess] = []
        self._dying: list[tuple[Slot, WorkerProcess]] = []

    @property
    def problem(self) -> str | None:
        """Why it can do nothing at all; None where a worker is there or will be."""
        if any(slot.state != "failed" for slot in self.slots):
            return None
        return self.slots[0].problem

    def free_worker(self) -> WorkerProcess | None:
        """One that waits for a job."""
        return next((slot.process for slot in self.slots if slot.process is not None and slot.process.is_free), None)

    def next_job(self, may_go: Callable[[Job], bool]) -> Waiting | None:
        """The job that a free worker is to have now, taken out of its queue; None where there is none."""
        background_may = self.lanes.length("background") > 0 and self._background_may()
        return self.lanes.pop(lambda waiting: may_go(waiting.job), background_may=background_may, now_s=monotonic())

    def _background_may(self) -> bool:
        """Whether one more worker may take a job in the background: of several, one always stays for the others."""
        if sum(slot.state != "failed" for slot in self.slots) == 1:
            return True
        return sum(process.job is None or not process.job.background for process in self._loaded()) > 1

    def _loaded(self) -> list[WorkerProcess]:
        """The workers that can work."""
        return [slot.process for slot in self.slots if slot.process is not None and slot.process.loaded]

    def processes(self) -> Iterator[WorkerProcess]:
        """All that are alive."""
        for slot in self.slots:
            yield from (process for process in (slot.process, slot.successor) if process is not None)
        yield from self._retired

    def fill(self) -> None:
        """Start workers for the slots that are down, once it is time for it, and end those that hang."""
        for slot in self.slots:
            if slot.process is None and monotonic() >= slot.restart_at_s:
                slot.process = self._start(slot)
        for process in self.processes():
            if cause := process.overdue():
                log.error(f"[WORKER] Killed: {cause}", pid=process.pid)
                process.kill(cause)

    def hear(self, slot: Slot, process: WorkerProcess, event: Message) -> str | None:
        """Take in what a worker has to say; the outcome of its job, where it has done one."""
        match event["event"]:
            case "loaded":
                if not self._loaded():
                    self.lanes.serve_from(monotonic())
                process.loaded, process.contract, process.rss_bytes = True, event["contract"], event["rss_bytes"]
                slot.came_up()
                if process is slot.successor:
                    self._hand_over(slot)
            case "failed":
                process.problem = str(event["problem"])
                if process is slot.process:
                    slot.problem = process.problem
            case "done":
                process.job = None
                process.jobs += 1
                process.rss_bytes = event["rss_bytes"]
                slot.has_worked()
                self._metrics.job_time.observe(monotonic() - process.job_since_s)
                self._recycle(slot, process)
                return str(event["outcome"])
        return None

    def lose(self, slot: Slot, process: WorkerProcess) -> None:
        """Take note of a worker that has closed its end of the socket, and make room for the next."""
        process.gone_s = monotonic()
        process.control.close()
        self._dying.append((slot, process))
        if process in self._retired:
            self._retired.remove(process)
        elif process is slot.successor:
            slot.successor = None  # the worker that it was for goes on
            slot.plan_restart(at_once=False)
        else:
            slot.process, slot.successor = slot.successor, None
            if not process.loaded and process.problem is None:
                slot.problem = "a worker died while it loaded the model"
            # One that has come up, and died before it did anything, would do so again and again.
            slot.plan_restart(at_once=process.jobs > 0 or process.job is not None)
            if not self._loaded():
                self.lanes.stand_still()

    def reap(self) -> list[tuple[WorkerProcess, str]]:
        """The workers that have ended since the last call, and what of."""
        ended = []
        for slot, process in self._dying[:]:
            cause = process.reap()
            if cause is None:
                continue
            self._dying.remove((slot, process))
            if not (process.retired and cause == "ended"):  # counted when it was
                self._metrics.ends.labels(cause).inc()
                log.error(f"[WORKER] {slot.name} is gone: {cause}", pid=process.pid, jobs=process.jobs)
            ended.append((process, cause))
        return ended

    @property
    def is_working(self) -> bool:
        """Whether some worker has a job."""
        return any(process.job is not None for process in self.processes())

    @property
    def is_burying(self) -> bool:
        """Whether the end of some worker is still to be reaped."""
        return bool(self._dying)

    def end(self) -> None:
        """End all workers: at once, but for one that is about to end by itself."""
        for slot in self.slots:
            for process in (slot.process, slot.successor):
                if process is not None and process.job is None and process.loaded:
                    process.retire()
                elif process is not None:
                    process.kill("stopped")
        for process in self._retired:
            process.kill("stopped")
        remaining = [*self.processes(), *(process for _, process in self._dying)]
        for process in remaining:
            process.gone_s = process.gone_s or monotonic()
        while remaining:
            remaining = [process for process in remaining if process.reap() is None]
            sleep(_POLL_S if remaining else 0)

    def _start(self, slot: Slot) -> WorkerProcess | None:
        """A new process; None where the machine has none to give now, and it is tried again after a pause."""
        try:
            return self._fork(slot)
        except OSError as error:
            log.error(f"[WORKER] {slot.name} cannot be started", reason=error.strerror)
            slot.plan_restart(at_once=False)
            return None

    def _recycle(self, slot: Slot, process: WorkerProcess) -> None:
        """Start a successor for a worker that has done enough; it goes on working until that one can."""
        limits = self._limits
        worn = limits.jobs and process.jobs >= limits.jobs * process.endurance
        if not worn and not (limits.rss_bytes and process.rss_bytes > limits.rss_bytes):
            return
        if process is not slot.process or any(other.successor for other in self.slots):
            return  # one at a time: each needs the memory of another model
        if monotonic() >= slot.restart_at_s:  # else the last one could not be started, or not load the model
            slot.successor = self._start(slot)

    def _hand_over(self, slot: Slot) -> None:
        old, slot.process, slot.successor = slot.process, slot.successor, None
        if old is not None:
            by_memory = self._limits.rss_bytes and old.rss_bytes > self._limits.rss_bytes
            self._metrics.ends.labels("recycled_memory" if by_memory else "recycled_jobs").inc()
            log.info(f"[WORKER] {slot.name} recycled", pid=old.pid, jobs=old.jobs, rss_mb=old.rss_bytes >> 20)
            old.retire()
            old.retired = True
            self._retired.append(old)
