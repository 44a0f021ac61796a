"""Compares the main faces of two pictures."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

import structlog

from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.enrolment.quality import main_face
from app.errors import ContractMismatch, ImageError, RecognitionError
from app.verification.comparison import Comparison, compare
from app.vision.faces import Analysis, Face, Float32Array, summed_timings
from app.vision.packs import PackStore

log = structlog.stdlib.get_logger("facedex.verification")


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the two: what the client calls it, for errors, and the file's bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class VerificationRequest:
    """Two pictures to compare.

    Attributes:
        first, second: the order does not matter but for errors: the first's goes before.
        threshold: cosine distance that overrides the pack's; None keeps it.
        model: name of the pack; None takes the pool's own.
        deadline: when the answer is of no more use.
        request_id: for the logs of all processes involved.
        client: who asks: the pool serves its clients in turn.
    """

    first: Picture
    second: Picture
    threshold: float | None
    model: str | None
    deadline: Deadline
    request_id: str
    client: str


@dataclass(frozen=True, slots=True, eq=False)
class VerificationResult:
    """What came of it: how the two main faces compare, where they are, and the time by stage, summed over both pictures."""

    comparison: Comparison
    first: Face
    second: Face
    model: str
    contract: str
    timings_ms: dict[str, float]


class VerificationService:
    """1:1 comparison of pictures; nothing is stored, no gallery is asked."""

    def __init__(self, embedder: EmbedderClient, packs: PackStore) -> None:
        self._embedder = embedder
        self._packs = packs

    def verify(self, request: VerificationRequest) -> VerificationResult:
        """Compare the main face of one picture with the other's; both are in the pool at the same time.

        Raises:
            NoFaceFound, SeveralFaces, ImageError: of one picture, which the message names.
            UnknownModel, EmbedderError: as `EmbedderClient.analyze`.
            ContractMismatch: the pool changed its model between the two.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as threads:
            second = threads.submit(copy_context().run, self._look, request.second, request)
            first_analysis, first_face = self._look(request.first, request)
            second_analysis, second_face = second.result()
        if first_analysis.contract != second_analysis.contract:
            raise ContractMismatch("The worker pool changed its model between the two pictures; send them again.")
        manifest = self._packs.get(first_analysis.model).manifest
        comparison = compare(
            _embedding(first_face), _embedding(second_face), manifest.calibration, threshold=request.threshold
        )
        log.info(f"[VERIFY] {'verified' if comparison.verified else 'not verified'}", model=first_analysis.model)
        return VerificationResult(
            comparison=comparison,
            first=first_face,
            second=second_face,
            model=first_analysis.model,
            contract=first_analysis.contract,
            timings_ms=summed_timings((first_analysis, second_analysis)),
        )

    def _look(self, picture: Picture, request: VerificationRequest) -> tuple[Analysis, Face]:
        try:
            analysis = self._embedder.analyze(
                picture.data,
                deadline=request.deadline,
                request_id=request.request_id,
                client=request.client,
                model=request.model,
            )
            return analysis, main_face(analysis)
        except (ImageError, RecognitionError) as error:
            raise type(error)(f"{picture.name}: {error}") from error


def _embedding(face: Face) -> Float32Array:
    assert face.embedding is not None  # all of them were asked for
    return face.embedding
