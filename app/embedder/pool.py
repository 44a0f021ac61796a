"""The worker pool: `python -m app.embedder.pool`. Takes jobs, hands each to a worker in turn, and keeps the workers alive.

One thread, no model, nothing native that a picture could reach: it only ever reads the description of a job, and passes the
connection itself on to a worker. What a worker does, or does not do, cannot bring it down. `docs/decisions/0008` says why it is
not Gunicorn's arbiter.
"""

import os

# Before NumPy is imported: its BLAS would start a thread a core, and the workers are forked from here.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import json
import selectors
import signal
import socket
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from app.config import Settings, SettingsError, load_settings
from app.embedder.crew import Crew, RecycleLimits
from app.embedder.fair_queue import QueueFull
from app.embedder.framing import LENGTH_BYTES, FramingError, Message, decode, object_length
from app.embedder.job import Job, is_digest
from app.embedder.pool_metrics import PoolMetrics
from app.embedder.quarantine import STRIKES, Quarantine
from app.embedder.waiting import Waiting, answer
from app.embedder.worker import LoadEngine, error_message, run_worker
from app.embedder.workers import STATES, Slot, WorkerProcess
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
_HEADER_WITHIN_S: Final = 5.0
_BACKLOG: Final = 512
# Clients that are refused and come again at once must not keep the pool from its workers.
_ACCEPTED_AT_ONCE: Final = 64
# Pictures that were worked off well a moment ago may be so by any number of workers at once.
_PROVEN_MAX: Final = 4096
_MIB: Final = 1024 * 1024
# An answer has to fit into a socket's buffer: the pool waits for nobody.
_LISTED_MAX: Final = 1000
# Outcomes of a job whose picture the worker may never have looked at.
_UNTRIED: Final = frozenset({"abandoned", WorkerTimeout.code})
# Of several things that have happened, what workers say comes first: a client that asks again must not be faster than the news
# that its worker has died.
_URGENT, _ORDINARY = 0, 1


class Reading:
    """A connection whose first message has not arrived in full."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.since_s = time.monotonic()
        self._data = bytearray()
        self._wanted = LENGTH_BYTES

    def read(self) -> Message | None:
        """Read what is there, and not a byte more than the message; the message where it is complete.

        Raises:
            FramingError: it is none.
            OSError: the other side has gone.
        """
        while True:
            try:
                part = self.connection.recv(self._wanted - len(self._data))
            except BlockingIOError:
                return None
            if not part:
                raise ConnectionResetError
            self._data += part
            if len(self._data) < self._wanted:
                continue
            if self._wanted > LENGTH_BYTES:
                return decode(bytes(self._data[LENGTH_BYTES:]))
            self._wanted += object_length(bytes(self._data))


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
        self._listener: socket.socket | None = None
        self._reading: dict[socket.socket, Reading] = {}
        self._in_flight: Counter[str] = Counter()
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._stopping_at_s: float | None = None
        self._wake_out, self._wake_in = socket.socketpair()
        limits = RecycleLimits(settings.embedder_max_requests, settings.embedder_recycle_mb * _MIB)
        self._crews = {
            model: Crew(
                model,
                size,
                queue_capacity=settings.embedder_queue,
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

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._stopping_at_s is None:
            self._stopping_at_s = time.monotonic() + self._settings.request_deadline_s + 2

    def _drain_wakeups(self) -> None:
        self._wake_out.recv(4096)

    def _listen(self) -> None:
        address = self._settings.embedder_address
        if address.startswith("unix:"):
            self._listener = _unix_listener(Path(address.removeprefix("unix:")))
        else:
            parts = urlsplit(address)
            self._listener = socket.create_server((parts.hostname or "", parts.port or 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
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
        keys = list(self._selector.get_map().values())
        self._selector.close()  # before the rest: taking one of them out of it would do so in the pool as well
        for key in keys:
            assert isinstance(key.fileobj, socket.socket)
            os.close(key.fileobj.detach())
        os.close(self._wake_in.detach())

    def _watch(self, source: socket.socket, call: Callable[[], None], priority: int = _ORDINARY) -> None:
        """Call something whenever there is something to read."""
        self._selector.register(source, selectors.EVENT_READ, (priority, call))

    # The loop

    def _turn(self) -> None:
        events = self._selector.select(_TICK_S)
        for key, _ in sorted(events, key=lambda event: event[0].data[0]):
            if self._selector.get_map().get(key.fd) is key:  # unless what came before has settled it
                key.data[1]()
        for crew in self._crews.values():
            self._dispatch(crew)

    def _housekeep(self) -> None:
        for crew in self._crews.values():
            crew.fill()
            for waiting in [waiting for waiting in crew.queue if waiting.job.deadline.expired]:
                self._leave_queue(crew, waiting)
                self._answer_error(waiting.connection, WorkerTimeout("The deadline passed while the picture waited."))
            if crew.problem is not None:
                for waiting in list(crew.queue):
                    self._leave_queue(crew, waiting)
                    self._answer_error(waiting.connection, ModelUnavailable(f"No model is loaded: {crew.problem}"))
        late_s = time.monotonic() - _HEADER_WITHIN_S
        for reading in [reading for reading in self._reading.values() if reading.since_s < late_s]:
            self._forget(reading.connection)
            reading.connection.close()

    def _is_done(self) -> bool:
        if self._stopping_at_s is None:
            return False
        if self._listener is not None:
            self._stop_listening()
        working = self._in_flight or self._reading or any(len(crew.queue) for crew in self._crews.values())
        return not working or time.monotonic() > self._stopping_at_s

    def _stop_listening(self) -> None:
        assert self._listener is not None
        if self._settings.embedder_address.startswith("unix:"):  # first: from now on nobody is connected any more
            Path(self._settings.embedder_address.removeprefix("unix:")).unlink(missing_ok=True)
        self._accept(_BACKLOG)  # whoever is connected already is served
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None

    def _end_workers(self) -> None:
        for crew in self._crews.values():
            for process in crew.processes():
                if process.job is None and process.loaded:
                    process.retire()
                else:
                    process.kill("stopped")
            for process in crew.processes():
                process.bury()

    # Connections

    def _accept(self, at_most: int = _ACCEPTED_AT_ONCE) -> None:
        assert self._listener is not None
        for _ in range(at_most):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # there are no descriptors left
                self._make_room(error)
                return
            connection.setblocking(False)
            self._reading[connection] = Reading(connection)
            self._watch(connection, partial(self._read, connection))
            self._read(connection)

    def _make_room(self, error: OSError) -> None:
        """Give up whoever has said nothing for longest."""
        silent = next(iter(self._reading), None)
        if silent is None:
            log.error("[WORKER] A connection could not be accepted", reason=error.strerror)
            time.sleep(_TICK_S / 10)  # what the others wait for frees descriptors; asking without a pause does not
            return
        self._forget(silent)
        silent.close()

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
                    answer(connection, {}, json.dumps(self._status()).encode())
                case "metrics":
                    answer(connection, {}, self._exposition())
                case "examine":
                    self._require_harmless(str(message.get("sha256")))
                    answer(connection, {})
                case "quarantine":
                    answer(
                        connection,
                        {},
                        json.dumps([asdict(held) for held in self._quarantine.held()[-_LISTED_MAX:]]).encode(),
                    )
                case "clear_quarantine":
                    sha256 = message.get("sha256")
                    if sha256 is not None and not is_digest(sha256):
                        raise InvalidRequest("A picture in quarantine is named by its SHA-256.")
                    answer(connection, {"cleared": self._quarantine.clear(sha256)})
                case _:
                    raise InvalidRequest("Unknown operation of the worker pool.")
        except FacedexError as error:
            self._answer_error(connection, error)
        except Exception:  # whatever it is about this question: the others' must go on
            log.exception("[WORKER] A question could not be answered")
            self._answer_error(connection, EmbedderError("The worker pool could not answer; its log says why."))

    def _answer_error(self, connection: socket.socket, error: FacedexError) -> None:
        self._metrics.jobs.labels(error.code).inc()
        answer(connection, error_message(error))

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
        if job.again:
            crew.queue.push_first(job.client, waiting)
        else:
            try:
                evicted = crew.queue.push(job.client, waiting)
            except QueueFull:
                raise PoolBusy("All workers are busy and the queue is full; try again shortly.") from None
            if evicted is not None:
                self._selector.unregister(evicted.connection)
                self._answer_error(
                    evicted.connection, PoolBusy("The queue is full, and others wait for less; try again.")
                )
        self._watch(connection, partial(self._leave, crew, waiting))
        self._dispatch(crew)  # at once: the next one that comes must not find a full queue and idle workers

    def _require_harmless(self, sha256: str) -> None:
        if self._quarantine.holds(sha256):
            raise ImageQuarantined(
                f"{STRIKES} workers have died of this picture; `flask quarantine` shows it, and clears it."
            )

    def _leave(self, crew: Crew, waiting: Waiting) -> None:
        """A client that says something before it was asked to has gone."""
        self._leave_queue(crew, waiting)
        waiting.connection.close()
        self._metrics.jobs.labels("abandoned").inc()

    def _leave_queue(self, crew: Crew, waiting: Waiting) -> None:
        crew.queue.discard(waiting.job.client, waiting)
        self._selector.unregister(waiting.connection)

    def _dispatch(self, crew: Crew) -> None:
        while (worker := crew.free_worker()) is not None:
            waiting = crew.queue.pop(self._may_go)
            if waiting is None:
                return
            self._selector.unregister(waiting.connection)
            if self._quarantine.holds(waiting.job.sha256):  # since it came
                self._answer_error(waiting.connection, ImageQuarantined("Workers have died of this picture."))
                continue
            # Recorded before the worker has it: whatever becomes of the worker, this is what it was doing.
            self._in_flight[waiting.job.sha256] += 1
            if not worker.give(waiting.job, waiting.connection):
                self._landed(waiting.job.sha256)
                crew.queue.push_first(waiting.job.client, waiting)
                self._watch(waiting.connection, partial(self._leave, crew, waiting))
                return  # its death is news that is still to come
            self._metrics.queue_wait.observe(time.monotonic() - waiting.since_s)
            waiting.connection.close()

    def _may_go(self, waiting: Waiting) -> bool:
        """No more workers are risked on a picture than may die of it."""
        sha256 = waiting.job.sha256
        return sha256 in self._proven or self._in_flight[sha256] < max(1, STRIKES - self._quarantine.strikes(sha256))

    def _hear(self, slot: Slot, process: WorkerProcess) -> None:
        crew, job, event = self._crews[slot.model], process.job, process.event()
        if event is None:
            self._selector.unregister(process.control)
            cause = crew.bury(slot, process)
            if job is not None:
                self._lost(job, cause)
            return
        outcome = crew.hear(slot, process, event)
        if outcome is not None and job is not None:
            self._metrics.jobs.labels(outcome).inc()
            self._landed(job.sha256)
            if outcome not in _UNTRIED:
                self._prove(job.sha256)

    def _lost(self, job: Job, cause: str) -> None:
        self._landed(job.sha256)
        self._metrics.jobs.labels("worker_timeout" if cause == "hang" else "worker_crashed").inc()
        self._proven.pop(job.sha256, None)
        self._quarantine.strike(job.sha256, cause)

    def _landed(self, sha256: str) -> None:
        self._in_flight[sha256] -= 1
        if not self._in_flight[sha256]:
            del self._in_flight[sha256]

    def _prove(self, sha256: str) -> None:
        """A worker has survived it: what died before did so of something else."""
        self._proven[sha256] = None
        self._proven.move_to_end(sha256)
        if len(self._proven) > _PROVEN_MAX:
            self._proven.popitem(last=False)
        if self._quarantine.strikes(sha256):
            self._quarantine.clear(sha256)

    # What it says of itself

    def _status(self) -> Message:
        now_s = time.monotonic()
        workers: list[dict[str, Any]] = [
            {
                "name": slot.name,
                "model": slot.model,
                "contract": slot.process.contract if slot.process else None,
                "state": slot.state,
                "pid": slot.process.pid if slot.process else None,
                "problem": slot.problem,
                "jobs": slot.process.jobs if slot.process else 0,
                "rss_bytes": slot.process.rss_bytes if slot.process else 0,
                "busy_s": now_s - slot.process.job_since_s if slot.process and slot.process.job else 0.0,
            }
            for crew in self._crews.values()
            for slot in crew.slots
        ]
        return {
            "default_model": self._default,
            "workers": workers,
            "queue_length": sum(len(crew.queue) for crew in self._crews.values()),
            "quarantined": len(self._quarantine.held()),
        }

    def _exposition(self) -> bytes:
        metrics = self._metrics
        metrics.quarantined.set(len(self._quarantine.held()))
        for crew in self._crews.values():
            metrics.queue_length.labels(crew.model).set(len(crew.queue))
            for slot in crew.slots:
                for state in STATES:
                    metrics.state.labels(slot.name, slot.model, state).set(state == slot.state)
                metrics.memory.labels(slot.name).set(slot.process.rss_bytes if slot.process else 0)
        return metrics.exposition()


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
    configure_logging(settings, settings.logs_dir / "embedder.log")
    try:
        Pool(settings, pool_models(settings), load).run()
    except (FacedexError, OSError) as error:
        log.exception("[WORKER] Pool ended")
        print(f"facedex: the worker pool cannot run: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _unix_listener(path: Path) -> socket.socket:
    """A socket at that path, in the place of one that was left behind.

    Raises:
        OSError: another pool listens there, or the path cannot be used.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
        except BlockingIOError:  # it listens, and has no room for one more at the moment
            raise OSError(f"another pool listens on {path.name} in this folder") from None
        else:
            raise OSError(f"another pool listens on {path.name} in this folder")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    return listener


if __name__ == "__main__":
    sys.exit(main())
