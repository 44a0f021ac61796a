"""Compares the main face of one picture with one enrolled person: 1:1, by all of that person's templates."""

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from app.db.breaker import CircuitBreaker
from app.db.person_distances import Claimed, claim_person
from app.db.session import Database
from app.deadline import Deadline
from app.embedder.client import EmbedderClient
from app.enrolment.quality import main_face
from app.errors import NoTemplates
from app.names import clean_name
from app.vision.faces import Face
from app.vision.packs import Calibration, PackStore

log = structlog.stdlib.get_logger("facedex.verification")

_LEAST_TIME_S: Final = 0.001


class Refusal(StrEnum):
    """Why it is not the person."""

    NOT_ALIKE = "not_alike"
    """The nearest of the person's templates is farther away than the threshold."""

    REJECTED = "rejected"
    """The face is nearer to one that was said not to be this person's."""

    NOT_VALID = "not_valid"
    """The person is not valid now: whatever the face, recognition would not name them either."""


@dataclass(frozen=True, slots=True)
class PersonVerificationRequest:
    """A probe, and whom it is said to show.

    Attributes:
        image: the file's bytes.
        domain: its name or id.
        label: the person's label, external id or id, in this order.
        threshold: cosine distance that overrides the pack's; None keeps it.
        deadline: when the answer is of no more use.
        request_id: for the logs of all processes involved.
        client: who asks: the pool serves its clients in turn.
    """

    image: bytes
    domain: str
    label: str
    threshold: float | None
    deadline: Deadline
    request_id: str
    client: str


@dataclass(frozen=True, slots=True, eq=False)
class PersonVerification:
    """What came of it.

    Attributes:
        refusal: why it is not the person; None where it is.
        distance: cosine distance (0 to 2) of the nearest of the person's templates.
        threshold: the distance that was applied.
        confidence: calibrated probability in percent that the nearest template shows the same person.
        claimed: the person.
        timings_ms: decode, detect, embed, compare.
    """

    refusal: Refusal | None
    distance: float
    threshold: float
    confidence: float
    claimed: Claimed
    face: Face
    model: str
    timings_ms: dict[str, float]

    @property
    def verified(self) -> bool:
        """Whether it is the person."""
        return self.refusal is None


class PersonVerificationService:
    """1:1 verification in one call of the model and one statement; nothing is stored."""

    def __init__(self, database: Database, breaker: CircuitBreaker, embedder: EmbedderClient, packs: PackStore) -> None:
        self._database = database
        self._breaker = breaker
        self._embedder = embedder
        self._packs = packs

    def verify(self, request: PersonVerificationRequest) -> PersonVerification:
        """Compare the picture's main face with the person. Nobody else is looked at, and nothing takes the database's place.

        Raises:
            InvalidName: nobody can be called so.
            NoFaceFound, SeveralFaces, ImageError: of the picture.
            EmbedderError: as `EmbedderClient.analyze`.
            DomainNotFound, PersonNotFound: as their names say.
            NoTemplates: the person has no enrolled face.
            ContractMismatch: the domain's templates are another model's.
            DomainNotMigrated, DatabaseError: nobody can say now.
        """
        domain, label = clean_name(request.domain, "domain name"), clean_name(request.label, "label")
        analysis = self._embedder.analyze(
            request.image, deadline=request.deadline, request_id=request.request_id, client=request.client
        )
        face = main_face(analysis)
        assert face.embedding is not None  # all of them were asked for
        started_s = time.monotonic()
        limit_s = max(_LEAST_TIME_S, request.deadline.remaining_s())
        with self._breaker.guard(), self._database.transaction(limit_s) as session:
            claimed = claim_person(session, domain, label, face.embedding, analysis.contract)
        elapsed_ms = (time.monotonic() - started_s) * 1000
        calibration = self._packs.get(analysis.model).manifest.calibration
        result = _decided(claimed, face, analysis.model, calibration, request.threshold)
        log.info(f"[VERIFY] {'verified' if result.verified else 'not verified'}", model=analysis.model)
        result.timings_ms.update({**analysis.timings_ms, "compare": elapsed_ms})
        return result


def _decided(
    claimed: Claimed, face: Face, model: str, calibration: Calibration, threshold: float | None
) -> PersonVerification:
    nearest = claimed.distances.nearest
    if nearest is None:
        raise NoTemplates("This person has no enrolled face to compare with.")
    applied = calibration.threshold if threshold is None else threshold
    return PersonVerification(
        refusal=_refusal(claimed, nearest, applied),
        distance=nearest,
        threshold=applied,
        confidence=calibration.confidence(nearest),
        claimed=claimed,
        face=face,
        model=model,
        timings_ms={},
    )


def _refusal(claimed: Claimed, nearest: float, threshold: float) -> Refusal | None:
    if not claimed.distances.valid:
        return Refusal.NOT_VALID
    if claimed.distances.is_rejected(threshold):
        return Refusal.REJECTED
    return None if nearest <= threshold else Refusal.NOT_ALIKE
