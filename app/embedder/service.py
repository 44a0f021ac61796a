"""Embeddings for Python programs: through the worker pool, or in the program's own process.

    service = EmbeddingService()                    # the pool of the running service
    alice = service.generate_embedding("alice.jpg")
    other = service.generate_embedding("other.jpg")
    service.calculate_similarity(alice, other)      # 1 is the same face; 1 minus it is the cosine distance

Log lines go where structlog is told to; `app.logs.configure_logging(settings)` sends them to standard error.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol, Self

import structlog

from app.config import Settings, load_settings
from app.deadline import Deadline
from app.embedder.batch import Outcome, analyze_each, pictures_at_once
from app.embedder.client import EmbedderClient
from app.embedder.files import read_picture
from app.embedder.similarity import Float64Array, Vectors, cosine_similarity_np
from app.errors import (
    ImageError,
    InvalidRequest,
    InvalidVector,
    NoFaceFound,
    RecognitionError,
    WorkerCrashed,
    WorkerTimeout,
)
from app.vision.faces import Analysis, Embed, Float32Array

log = structlog.stdlib.get_logger("facedex.embedder")

# A path, or the bytes of a file: JPEG, PNG, WebP or BMP.
Image = str | Path | bytes

_CLIENT: Final = "python"
# What a picture is to blame for, or what at least befell this one alone.
_BAD_PICTURE: Final = (ImageError, RecognitionError, InvalidRequest, WorkerCrashed, WorkerTimeout)


class Analyzer(Protocol):
    """Makes faces of one picture: the pool, or an engine in this process."""

    def analyze(self, image: bytes, *, deadline: Deadline, embed: Embed) -> Analysis:
        """As `EmbedderClient.analyze`."""
        ...


class EmbeddingService:
    """Embeddings by one model.

    Args:
        model: name of the pack; None takes the one that the pool has loaded. Asked for with each picture.
        settings: which service's pool; None reads the environment, as every command does.
        analyzer: what takes the pool's place; see `in_process`.
    """

    def __init__(
        self, model: str | None = None, *, settings: Settings | None = None, analyzer: Analyzer | None = None
    ) -> None:
        self._settings = settings or load_settings()
        self._analyzer = analyzer or _Pool(EmbedderClient(self._settings.embedder_address), model)

    @classmethod
    def in_process(cls, model: str | None = None, *, settings: Settings | None = None) -> Self:
        """A service that needs no pool: it loads the model into this process, which a native crash then takes with it.

        Args:
            model: name of an installed pack; None takes the active one.

        Raises:
            UnknownModel: no such pack is installed; the message names those that are.
            InvalidPack: its files are damaged.
        """
        # Only here: it loads the model runtime, with its threads.
        from app.embedder.local import LocalEmbedder

        settings = settings or load_settings()
        return cls(settings=settings, analyzer=LocalEmbedder(settings, model))

    def generate_embedding(self, image: Image) -> Float32Array:
        """The embedding of the picture's largest face.

        Returns:
            float32, (D,), unit length.

        Raises:
            FileNotFound, ImageError: the picture cannot be read.
            EmptyUpload, UploadTooLarge: it has no bytes, or more than MAX_UPLOAD_BYTES.
            NoFaceFound: there is no face in it.
            UnknownModel: no model of that name is loaded; the message names those that are.
            PoolBusy, WorkerTimeout, WorkerCrashed, ModelUnavailable, EmbedderUnavailable: as their names say.
        """
        return _largest(self._analyze(image, Deadline.after(self._settings.request_deadline_s)))

    def generate_embeddings_batch(self, images: Sequence[Image]) -> list[Float32Array | None]:
        """The same for many pictures, some of them at a time; a full queue is waited for.

        Returns:
            one embedding per picture, in order; None for a picture that cannot be read, has no face, or that the workers died
            of or did not finish in time. The log says which.

        Raises:
            UnknownModel, PoolBusy, ModelUnavailable, EmbedderUnavailable: no picture's fault, and a None would hide it.
        """
        found: list[Float32Array | None] = [None] * len(images)
        outcomes = analyze_each(
            images,
            self._analyze,
            parallel=pictures_at_once(self._settings, len(images)),
            deadline_s=self._settings.request_deadline_s,
        )
        with closing(outcomes):
            for outcome in outcomes:
                found[outcome.index] = _embedding_or_none(outcome)
        return found

    @staticmethod
    def calculate_similarity(a: Vectors, b: Vectors) -> float:
        """Cosine similarity of two vectors, -1 to 1.

        Raises:
            InvalidVector: not two vectors of one length, or one that has no direction.
        """
        similarity = cosine_similarity_np(a, b)
        if similarity.ndim:
            raise InvalidVector("Two vectors are compared here; cosine_similarity_np takes matrices.")
        return float(similarity)

    @staticmethod
    def cosine_similarity_np(a: Vectors, b: Vectors) -> Float64Array:
        """Cosine similarities of vectors and matrices of vectors, see `app.embedder.similarity`."""
        return cosine_similarity_np(a, b)

    def _analyze(self, image: Image, deadline: Deadline) -> Analysis:
        data = read_picture(image, max_bytes=self._settings.max_upload_bytes)
        started_s = time.monotonic()
        analysis = self._analyzer.analyze(data, deadline=deadline, embed="largest")
        elapsed_ms = (time.monotonic() - started_s) * 1000
        log.info(f"[EMBED] {len(analysis.faces)} faces in {elapsed_ms:.1f} ms", model=analysis.model)
        return analysis


class _Pool:
    """The pool, asked for one model."""

    def __init__(self, embedder: EmbedderClient, model: str | None) -> None:
        self._embedder = embedder
        self._model = model

    def analyze(self, image: bytes, *, deadline: Deadline, embed: Embed) -> Analysis:
        return self._embedder.analyze(image, deadline=deadline, embed=embed, client=_CLIENT, model=self._model)


def _largest(analysis: Analysis) -> Float32Array:
    if not analysis.faces or analysis.faces[0].embedding is None:
        raise NoFaceFound("No face was found in the picture.")
    return analysis.faces[0].embedding


def _embedding_or_none(outcome: Outcome) -> Float32Array | None:
    try:
        if outcome.error is not None:
            raise outcome.error
        assert outcome.analysis is not None
        return _largest(outcome.analysis)
    except _BAD_PICTURE as error:
        log.warning(f"[EMBED] No embedding: {error.code}: {error}", index=outcome.index)
        return None
