"""One process of the pool: loads one model after the fork, then works off jobs, one at a time.

The pool hands over each job together with its client's connection: the picture comes, and the answer goes, without passing
through the pool.
"""

import ctypes
import faulthandler
import gc
import hashlib
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from app.config import Settings
from app.embedder.framing import ConnectionEnded, FramingError, Message, encode, receive_exactly
from app.embedder.job import Job
from app.embedder.protocol import dump_analysis
from app.errors import FacedexError, InvalidRequest, WorkerTimeout
from app.vision.engine import FaceEngine, load_engine
from app.vision.faces import Analysis, Box
from app.vision.packs import InstalledPack, PackStore

log = structlog.stdlib.get_logger("facedex.worker")

LoadEngine = Callable[[InstalledPack], FaceEngine]

# With which a worker ends whose memory limit was reached: what it holds is in no state to go on with.
EXIT_OUT_OF_MEMORY: Final = 77
EXIT_NOT_LOADED: Final = 78
MAX_EVENT_BYTES: Final = 64 * 1024
_MIB: Final = 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
# Of all processes, the kernel should take a worker when memory runs out: it is replaced at once.
_OOM_SCORE_ADJ: Final = "500"


def run_worker(
    control: socket.socket, settings: Settings, model: str, name: str, load: LoadEngine = load_engine
) -> int:
    """Work until the pool closes its end of `control`, a SOCK_SEQPACKET socket.

    Returns:
        the exit code.
    """
    _settle(settings)
    with structlog.contextvars.bound_contextvars(worker=name):
        try:
            engine = _load(PackStore(settings.models_dir), model, load)
        except Exception as error:
            log.error("[WORKER] Model not loaded", exc_info=error)
            _tell(control, {"event": "failed", "problem": _load_problem(error)})
            return EXIT_NOT_LOADED
        gc.freeze()  # what is there now stays: the collector need not look at it again
        _give_back_memory()
        memory = _Memory()
        contract = engine.pack.manifest.contract.id
        _tell(control, {"event": "loaded", "contract": contract, "rss_bytes": memory.resident_bytes()})
        return Worker(control, settings, engine, memory).run()


class Worker:
    """A worker with its model loaded."""

    def __init__(self, control: socket.socket, settings: Settings, engine: FaceEngine, memory: "_Memory") -> None:
        self._control = control
        self._settings = settings
        self._engine = engine
        self._memory = memory

    def run(self) -> int:
        """Take jobs until there are no more; the exit code."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._control, MAX_EVENT_BYTES, 1)
            if not data:
                return 0
            job = Job.from_message(json.loads(data))
            with (
                structlog.contextvars.bound_contextvars(request_id=job.request_id),
                socket.socket(fileno=descriptors[0]) as connection,
            ):
                started_s = time.monotonic()
                try:
                    outcome, analysis = self._serve(connection, job)
                except MemoryError:
                    # Before the client's connection: its next question must not be faster than this news.
                    self._control.close()
                    log.error("[WORKER] Out of memory")
                    return EXIT_OUT_OF_MEMORY
                done = {"event": "done", "outcome": outcome, "rss_bytes": self._memory.resident_bytes()}
                _tell(self._control, done)
                if analysis is not None:  # last: by now nobody waits for this worker
                    _log_faces(analysis, time.monotonic() - started_s)

    def _serve(self, connection: socket.socket, job: Job) -> tuple[str, Analysis | None]:
        """Work off one job; what became of it."""
        connection.settimeout(max(job.deadline.remaining_s(), 0.001))
        try:
            if not job.early:
                connection.sendall(encode({"go": True}))
            image = receive_exactly(connection, job.length, job.deadline)
            outcome, answer, analysis = self._answer(image, job)
            connection.settimeout(max(job.deadline.remaining_s(), 0.001))
            connection.sendall(answer)
        except (OSError, ConnectionEnded, FramingError):
            log.info("[WORKER] The client has gone")
            return "abandoned", None
        return outcome, analysis

    def _answer(self, image: bytes, job: Job) -> tuple[str, bytes, Analysis | None]:
        try:
            if job.deadline.expired:
                raise WorkerTimeout("The deadline passed before the picture was looked at.")
            if hashlib.sha256(image).hexdigest() != job.sha256:  # else one picture could be blamed for another's harm
                raise InvalidRequest("The picture is not the one that was announced.")
            if job.thumbnail is not None:
                return "ok", encode({}, self._thumbnail(image, job.thumbnail)), None
            analysis = self._engine.analyze(
                image,
                max_pixels=self._settings.max_image_pixels,
                embed=job.embed,
                deadline=job.deadline,
                effort=job.effort,
            )
            return "ok", encode({}, dump_analysis(analysis)), analysis
        except FacedexError as error:
            log.info(f"[WORKER] Refused: {error.code}")
            return error.code, encode(error_message(error)), None
        except MemoryError:
            raise
        except Exception:
            log.exception("[WORKER] Job failed")
            problem = {"error": "embedder_error", "message": "The worker failed on this picture; its log says why."}
            return "embedder_error", encode(problem), None

    def _thumbnail(self, image: bytes, box: Box) -> bytes:
        from app.vision.thumbnails import make_thumbnail  # OpenCV is not for the pool's master

        return make_thumbnail(image, box, max_pixels=self._settings.max_image_pixels)


def error_message(error: FacedexError) -> Message:
    """The answer that says what went wrong."""
    return {"error": error.code, "message": str(error)}


def _log_faces(analysis: Analysis, elapsed_s: float) -> None:
    found = "" if analysis.strategy == "usual" else f" ({analysis.strategy})"
    log.info(
        f"[WORKER] {len(analysis.faces)} faces{found} in {elapsed_s * 1000:.1f} ms",
        **{f"{stage}_ms": round(ms, 2) for stage, ms in analysis.timings_ms.items()},
    )


def _load(packs: PackStore, model: str, load: LoadEngine) -> FaceEngine:
    started_s = time.monotonic()
    engine = load(packs.get(model))
    log.info(f"[WORKER] Model {model} loaded in {time.monotonic() - started_s:.2f}s", pid=os.getpid())
    return engine


def _give_back_memory() -> None:
    """What only loading needed, a seventh of what a worker holds, goes back to the system; glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _load_problem(error: Exception) -> str:
    """Only our own errors are known to hold nothing private; the log has the rest."""
    match error:
        case FacedexError():
            return str(error)
        case MemoryError():
            return "the model does not fit into EMBEDDER_MEMORY_MB"
    return "the model could not be loaded, see embedder.log"


def _settle(settings: Settings) -> None:
    """What a process has to arrange for itself: it ends with the pool, within its memory, and says where it crashed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The pool decides when it ends: Ctrl-C, and many a service manager, tell all processes at once, jobs in hand or not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    # A core dump would put people's faces on disk, and takes seconds.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Heap and private mappings: what a picture can make grow. Neither code nor the model's file counts.
    limit = settings.embedder_memory_mb * _MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJ)
    except OSError:  # a container may forbid it
        log.debug("[WORKER] oom_score_adj cannot be set")


def _tell(control: socket.socket, event: Message) -> None:
    control.send(json.dumps(event).encode())


class _Memory:
    """What this process holds, proc(5): it is looked up after each job. To be made after the fork."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._page_bytes = resource.getpagesize()

    def resident_bytes(self) -> int:
        """Resident memory."""
        return int(os.pread(self._statm, 128, 0).split()[1]) * self._page_bytes
