"""The worker pool: `python -m app.embedder.pool`. Takes jobs, hands each to a worker in turn, and keeps the workers alive.

One thread, no model, nothing native that a picture could reach: it only ever reads the description of a job, and passes the
connection itself on to a worker. What a worker does, or does not do, cannot bring it down. `docs/decisions/0008` says why it is
not Gunicorn's arbiter.
"""

import os

# Before NumPy is imported: its BLAS would start a thread a core, and the workers are forked from here.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import errno
import json
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Final

import structlog

from app.config import Settings, SettingsError, load_settings
from app.embedder.crew import Crew, RecycleLimits
from app.embedder.fair_queue import QueueFull
from app.embedder.framing import FramingError, Message
from app.embedder.hangups import Hangups
from app.embedder.job import Job, is_digest
from app.embedder.lanes import Lane, Lanes, lane_of
from app.embedder.listener import BACKLOG, open_listener, unlink_listener
from app.embedder.pool_metrics import PoolMetrics
from app.embedder.pool_report import exposition, pool_status
from app.embedder.quarantine import STRIKES, Quarantine
from app.embedder.reading import Reading
from app.embedder.risk import Risks
from app.embedder.status import PoolStatus
from app.embedder.waiting import Waiting, reply
from app.embedder.worker import LoadEngine, error_message, run_worker
from app.embedder.workers import Slot, WorkerProcess
from app.errors import (
    EmbedderError,
    FacedexError,
    ImageQuarantined,
    InvalidRequest,
    ModelUnavailable,
    PoolBusy,
    UnknownModel,
    WorkerTimeout,
)
from app.logs import configure_logging
from app.vision.engine import load_engine
from app.vision.packs import PackStore

log = structlog.stdlib.get_logger("facedex.worker")

_TICK_S: Final = 0.1
_BURYING_TICK_S: Final = 0.005
_HEADER_WITHIN_S: Final = 5.0
# Clients that are refused and come again at once must not keep the pool from its workers.
_ACCEPTED_AT_ONCE: Final = 64
_MIB: Final = 1024 * 1024
_DESCRIPTORS: Final = 16_384
# An answer has to fit into a socket's buffer: the pool waits for nobody.
_LISTED_MAX: Final = 1000
# Outcomes of a job whose picture the worker may never have looked at.
_UNTRIED: Final = frozenset({"abandoned", InvalidRequest.code, WorkerTimeout.code})
# Of several things that have happened, what workers say comes first: a client that asks again must not be faster than the news
# that its worker has died.
_URGENT, _ORDINARY = 0, 1


class Pool:
    """The pool's one thread.

    Args:
        models: how many workers of each model; the first is the default.
        load: makes an engine of a pack, in a worker.
    """

    def __init__(self, settings: Settings, models: Mapping[str, int], load: LoadEngine = load_engine) -> None:
        self._settings = settings
        self._load = load
        self._metrics = PoolMetrics()
        self._quarantine = Quarantine(settings.quarantine_file, settings.quarantine_s)
        self._selector = selectors.DefaultSelector()
        self._hangups = Hangups()  # of clients that wait in a queue
        self._listener: socket.socket | None = None
        self._reading: dict[socket.socket, Reading] = {}
        self._risks = Risks(self._quarantine, next(iter(models)))
        self._stopping_at_s: float | None = None
        self._tend_at_s = 0.0
        self._wake_out, self._wake_in = socket.socketpair()
        limits = RecycleLimits(settings.embedder_max_requests, settings.embedder_recycle_mb * _MIB)
        self._crews = {
            model: Crew(
                model,
                size,
                lanes=Lanes(
                    settings.embedder_queue,
                    settings.embedder_background_queue,
                    wait_max_s=settings.embedder_queue_s,
                ),
                limits=limits,
                fork=self._fork,
                metrics=self._metrics,
            )
            for model, size in models.items()
        }
        self._default = next(iter(models))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and then until everything that was accepted is answered."""
        self._handle_signals()
        self._listen()
        log.info(f"[WORKER] Pool listens: {', '.join(f'{len(c.slots)} x {c.model}' for c in self._crews.values())}")
        try:
            while not self._is_done():
                self._housekeep()
                self._turn()
        finally:
            self._end_workers()

    # Signals and sockets

    def _handle_signals(self) -> None:
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._watch(self._wake_out, self._drain_wakeups)
        self._watch(self._hangups, self._hangups.call)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._stopping_at_s is None:
            self._stopping_at_s = time.monotonic() + self._settings.request_deadline_s + 2

    def _drain_wakeups(self) -> None:
        self._wake_out.recv(4096)

    def _listen(self) -> None:
        self._listener = open_listener(self._settings.embedder_address)
        self._watch(self._listener, self._accept)

    def _fork(self, slot: Slot) -> WorkerProcess:
        def run(control: socket.socket) -> int:
            return run_worker(control, self._settings, slot.model, slot.name, self._load)

        process = WorkerProcess.fork(run, self._release_in_worker)
        self._watch(process.control, lambda: self._hear(slot, process), _URGENT)
        return process

    def _release_in_worker(self) -> None:
        """A worker inherits all connections: as long as it had them open too, nobody would see them closed."""
        signal.set_wakeup_fd(-1)
        watched = [key.fileobj for key in self._selector.get_map().values()]
        waiting = list(self._hangups.connections())
        self._selector.close()  # before the rest: taking one of them out of it would do so in the pool as well
        self._hangups.close()
        for source in (*watched, *waiting):
            if isinstance(source, socket.socket):
                os.close(source.detach())
        os.close(self._wake_in.detach())

    def _watch(self, source: socket.socket | Hangups, call: Callable[[], None], priority: int = _ORDINARY) -> None:
        """Call something whenever there is something to read."""
        self._selector.register(source, selectors.EVENT_READ, (priority, call))

    # The loop

    def _turn(self) -> None:
        burying = any(crew.is_burying for crew in self._crews.values())
        next_due_s = min(crew.lanes.next_due_s() for crew in self._crews.values()) - time.monotonic()
        events = self._selector.select(max(0.0, min(_BURYING_TICK_S if burying else _TICK_S, next_due_s)))
        if len(events) > 1:
            events.sort(key=lambda event: event[0].data[0])
        for key, _ in events:
            if self._selector.get_map().get(key.fd) is key:  # unless what came before has settled it
                key.data[1]()
        for crew in self._crews.values():
            self._dispatch(crew)

    def _housekeep(self) -> None:
        now_s = time.monotonic()
        for crew in self._crews.values():
            for waiting in crew.lanes.overdue(now_s):
                self._leave_queue(crew, waiting)
                self._refuse(waiting, _waited_long_enough(waiting))
        # The rest happens seldom, and need not be looked for with every job.
        if now_s >= self._tend_at_s or any(crew.is_burying for crew in self._crews.values()):
            self._tend_at_s = now_s + _TICK_S
            self._tend()

    def _tend(self) -> None:
        """Workers that have ended or hang, models that cannot be loaded, clients that begin to speak and do not go on."""
        self._quarantine.save_again()
        for crew in self._crews.values():
            crew.fill()
            for process, cause in crew.reap():
                if process.job is not None:
                    self._quarantine.explain(process.job.sha256, cause)
            if crew.problem is not None:
                for waiting in list(crew.lanes):
                    self._leave_queue(crew, waiting)
                    self._refuse(waiting, ModelUnavailable(f"No model is loaded: {crew.problem}"))
        late_s = time.monotonic() - _HEADER_WITHIN_S
        for reading in [reading for reading in self._reading.values() if reading.since_s < late_s]:
            self._forget(reading.connection)
            reading.connection.close()

    def _is_done(self) -> bool:
        if self._stopping_at_s is None:
            return False
        if self._listener is not None:
            self._stop_listening()
        working = self._reading or any(len(crew.lanes) or crew.is_working for crew in self._crews.values())
        return not working or time.monotonic() > self._stopping_at_s

    def _stop_listening(self) -> None:
        assert self._listener is not None
        unlink_listener(self._settings.embedder_address)  # first: from now on nobody is connected any more
        self._accept(BACKLOG)  # whoever is connected already is served
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None

    def _end_workers(self) -> None:
        for crew in self._crews.values():
            crew.end()

    # Connections

    def _accept(self, at_most: int = _ACCEPTED_AT_ONCE) -> None:
        assert self._listener is not None
        for _ in range(at_most):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._make_room(error)
                return
            connection.setblocking(False)
            self._read_first(connection)

    def _make_room(self, error: OSError) -> None:
        """Give up whoever has said nothing for longest."""
        silent = next(iter(self._reading), None)
        if silent is None:
            log.error("[WORKER] A connection could not be accepted", reason=error.strerror)
            time.sleep(_TICK_S / 10)  # what the others wait for frees descriptors; asking without a pause does not
            return
        self._forget(silent)
        silent.close()

    def _read_first(self, connection: socket.socket) -> None:
        """Most messages are there, in one piece, when their connection is: nobody need watch it."""
        reading = Reading(connection)
        try:
            message = reading.read()
        except (OSError, FramingError):
            connection.close()
            return
        if message is not None:
            self._obey(connection, message)
            return
        self._reading[connection] = reading
        self._watch(connection, partial(self._read, connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            message = self._reading[connection].read()
        except (OSError, FramingError):
            self._forget(connection)
            connection.close()
            return
        if message is not None:
            self._forget(connection)
            self._obey(connection, message)

    def _forget(self, connection: socket.socket) -> None:
        self._reading.pop(connection, None)
        self._selector.unregister(connection)

    def _obey(self, connection: socket.socket, message: Message) -> None:
        try:
            match message.get("op"):
                case "analyze":
                    self._enqueue(connection, message)
                case "status":
                    reply(connection, {}, json.dumps(asdict(self._status())).encode())
                case "metrics":
                    reply(connection, {}, exposition(self._metrics, self._crews.values(), len(self._quarantine.held())))
                case "examine":
                    self._require_harmless(str(message.get("sha256")))
                    reply(connection, {})
                case "quarantine":
                    reply(
                        connection,
                        {},
                        json.dumps([asdict(held) for held in self._quarantine.held()[-_LISTED_MAX:]]).encode(),
                    )
                case "clear_quarantine":
                    sha256 = message.get("sha256")
                    if sha256 is not None and not is_digest(sha256):
                        raise InvalidRequest("A picture in quarantine is named by its SHA-256.")
                    reply(connection, {"cleared": self._quarantine.clear(sha256)})
                case _:
                    raise InvalidRequest("Unknown operation of the worker pool.")
        except FacedexError as error:
            if message.get("op") == "analyze":
                self._metrics.jobs.labels(error.code, _lane_asked_for(message)).inc()
            reply(connection, error_message(error))
        except Exception:  # whatever it is about this question: the others' must go on
            log.exception("[WORKER] A question could not be answered")
            reply(connection, error_message(EmbedderError("The worker pool could not answer; its log says why.")))

    def _status(self) -> PoolStatus:
        return pool_status(self._metrics, self._crews.values(), self._default, len(self._quarantine.held()))

    def _refuse(self, waiting: Waiting, error: FacedexError) -> None:
        """Answer a job that no worker gets."""
        self._metrics.jobs.labels(error.code, lane_of(waiting.job)).inc()
        reply(waiting.connection, error_message(error))

    # Jobs

    def _enqueue(self, connection: socket.socket, message: Message) -> None:
        job = Job.from_message(
            message,
            max_bytes=self._settings.max_upload_bytes,
            same_clock=connection.family == socket.AF_UNIX,
        )
        crew = self._crews.get(job.model or self._default)
        if crew is None:
            raise UnknownModel(f"No model {job.model!r} is loaded; loaded: {', '.join(self._crews)}.")
        self._require_harmless(job.sha256)
        if crew.problem is not None:
            raise ModelUnavailable(f"No model is loaded: {crew.problem}")
        waiting = Waiting(job, connection, time.monotonic())
        if job.again and self._quarantine.strikes(job.sha256):  # it was in the queue before, and a worker died of it
            crew.lanes.push_first(waiting)
        else:
            try:
                evicted = crew.lanes.push(waiting)
            except QueueFull:
                raise PoolBusy("All workers are busy and the queue is full; try again shortly.") from None
            if evicted is not None:
                self._hangups.forget(evicted.connection)
                self._refuse(evicted, PoolBusy("The queue is full, and others wait for less; try again."))
        self._dispatch(crew)  # at once: the next one that comes must not find a full queue and idle workers
        if waiting in crew.lanes:
            self._hangups.watch(connection, partial(self._leave, crew, waiting))

    def _require_harmless(self, sha256: str) -> None:
        if self._quarantine.holds(sha256):
            raise ImageQuarantined(
                f"{STRIKES} workers have died of this picture; `flask quarantine` shows it, and clears it."
            )

    def _leave(self, crew: Crew, waiting: Waiting) -> None:
        """Its client has gone."""
        self._leave_queue(crew, waiting)
        waiting.connection.close()
        self._metrics.jobs.labels("abandoned", lane_of(waiting.job)).inc()

    def _leave_queue(self, crew: Crew, waiting: Waiting) -> None:
        crew.lanes.discard(waiting)
        self._hangups.forget(waiting.connection)

    def _dispatch(self, crew: Crew) -> None:
        while crew.lanes and (worker := crew.free_worker()) is not None:
            waiting = crew.next_job(self._risks.may_go)
            if waiting is None:
                return
            self._hangups.forget(waiting.connection)
            if self._quarantine.holds(waiting.job.sha256):  # since it came
                self._refuse(waiting, ImageQuarantined("Workers have died of this picture."))
                continue
            if crew.lanes.due_s(waiting) <= time.monotonic():  # a moment ago, while something else was to be done
                self._refuse(waiting, _waited_long_enough(waiting))
                continue
            worker.at_risk = not self._risks.is_proven(waiting.job)
            if worker.at_risk:  # recorded before the worker has it
                self._risks.taken(waiting.job)
            if not worker.give(waiting.job, waiting.connection):
                self._landed(worker, waiting.job)
                crew.lanes.push_first(waiting)
                self._hangups.watch(waiting.connection, partial(self._leave, crew, waiting))
                return  # its death is news that is still to come
            self._metrics.queue_wait.labels(lane_of(waiting.job)).observe(time.monotonic() - waiting.since_s)
            waiting.connection.close()

    def _hear(self, slot: Slot, process: WorkerProcess) -> None:
        crew, job, event = self._crews[slot.model], process.job, process.event()
        if event is None:
            self._tend_at_s = 0.0
            self._selector.unregister(process.control)
            crew.lose(slot, process)
            if job is not None:
                self._lost(process, job)
            return
        try:
            outcome = crew.hear(slot, process, event)
        except (KeyError, TypeError):
            log.error("[WORKER] A worker says what none of them would", pid=process.pid)
            process.kill("nonsense")
            return
        if outcome is None:  # its model is loaded, or cannot be
            self._tend_at_s = 0.0
        elif job is not None:
            self._metrics.jobs.labels(outcome, lane_of(job)).inc()
            self._landed(process, job)
            if outcome not in _UNTRIED:
                self._risks.survived(job)

    def _lost(self, process: WorkerProcess, job: Job) -> None:
        self._landed(process, job)
        outcome = "worker_timeout" if process.kill_cause == "hang" else "worker_crashed"
        self._metrics.jobs.labels(outcome, lane_of(job)).inc()
        self._risks.killed(job, process.kill_cause or "unknown")

    def _landed(self, process: WorkerProcess, job: Job) -> None:
        if process.at_risk:
            process.at_risk = False
            self._risks.landed(job)


def _waited_long_enough(waiting: Waiting) -> FacedexError:
    """What a job is told that no worker has taken in time. Where others go first, it is no picture's fault."""
    if lane_of(waiting.job) == "background":
        return PoolBusy("No worker had time for the picture before its deadline; try again later.")
    if waiting.job.deadline.expired:
        return WorkerTimeout("The deadline passed while the picture waited.")
    return PoolBusy("The picture has waited in the queue as long as it may; try again shortly.")


def _lane_asked_for(message: Message) -> Lane:
    """Of a job that may not even be one."""
    return "background" if message.get("background") is True else "ordinary"


def pool_models(settings: Settings) -> dict[str, int]:
    """How many workers of each model there are to be; the default model first, and once.

    A pack that is not installed is no reason to do without the others: its workers say so, and try again.

    Raises:
        InvalidPack: the file that names the default model cannot be read.
    """
    default = PackStore(settings.models_dir).active_name(settings.face_model)
    return {default: settings.embedder_workers} | {
        name: workers for name, workers in settings.embedder_extra_models.items() if name != default
    }


def main(load: LoadEngine = load_engine) -> int:
    """Run the pool; the exit code."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"facedex: wrong settings: {error}", file=sys.stderr)  # noqa: T201
        return 2
    os.umask(0o077)  # the socket is for this user only
    _raise_descriptor_limit()
    configure_logging(settings, settings.logs_dir / "embedder.log")
    try:
        Pool(settings, pool_models(settings), load).run()
    except (FacedexError, OSError) as error:
        log.exception("[WORKER] Pool ended")
        print(f"facedex: the worker pool cannot run: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _raise_descriptor_limit() -> None:
    """A queued job holds a connection, and the queue may be longer than the usual soft limit of 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
