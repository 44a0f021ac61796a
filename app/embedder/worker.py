"""One worker of the pool: loads one model after the fork, then turns pictures into faces, one at a time."""

import os
import time
from dataclasses import dataclass

import structlog

from app.config import Settings
from app.errors import FacedexError, ModelUnavailable
from app.vision.engine import FaceEngine, load_engine
from app.vision.faces import Analysis, Embed
from app.vision.packs import PackStore

log = structlog.stdlib.get_logger("facedex.worker")

# A model that cannot be loaded is tried again, but not for every request.
_RETRY_FIRST_S = 2.0
_RETRY_MAX_S = 60.0


@dataclass(slots=True)
class _Failure:
    problem: str
    retry_at_s: float
    backoff_s: float


class Worker:
    """Holds this process's one model.

    A model that fails to load does not end the process: Gunicorn would stop the whole pool, and a pool without a model still
    has to say what is wrong with it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: FaceEngine | None = None
        self._failure: _Failure | None = None

    @property
    def problem(self) -> str | None:
        """Why no model is loaded, None where one is."""
        if self._engine is not None:
            return None
        return self._failure.problem if self._failure else "the model is not loaded yet"

    @property
    def engine(self) -> FaceEngine | None:
        """The loaded model, None where there is none."""
        return self._engine

    def ensure_loaded(self) -> None:
        """Load the model unless it is loaded, or failed to load a moment ago. Never raises."""
        if self._engine is not None or (self._failure and time.monotonic() < self._failure.retry_at_s):
            return
        started = time.monotonic()
        try:
            pack = PackStore(self._settings.models_dir).active(self._settings.face_model)
            self._engine = load_engine(pack)
        except Exception as error:
            backoff_s = min(self._failure.backoff_s * 2, _RETRY_MAX_S) if self._failure else _RETRY_FIRST_S
            # Only our own errors are known to hold nothing private; the log has the rest.
            problem = (
                str(error) if isinstance(error, FacedexError) else "the model could not be loaded, see embedder.log"
            )
            self._failure = _Failure(problem, time.monotonic() + backoff_s, backoff_s)
            log.exception("[WORKER] Model not loaded", retry_in_s=backoff_s)
            return
        self._failure = None
        log.info(
            f"[WORKER] Model {self._engine.pack.manifest.name} loaded in {time.monotonic() - started:.2f}s",
            pid=os.getpid(),
        )

    def analyze(self, image: bytes, embed: Embed) -> Analysis:
        """Detect and embed the faces of one picture.

        Raises:
            ImageError: the picture cannot be read.
            ModelUnavailable: no model is loaded; the message says why.
        """
        self.ensure_loaded()
        if self._engine is None:
            raise ModelUnavailable(f"No model is loaded: {self.problem}")
        started = time.monotonic()
        analysis = self._engine.analyze(image, max_pixels=self._settings.max_image_pixels, embed=embed)
        log.info(
            f"[WORKER] {len(analysis.faces)} faces in {(time.monotonic() - started) * 1000:.1f} ms",
            **{f"{stage}_ms": round(ms, 2) for stage, ms in analysis.timings_ms.items()},
        )
        return analysis
