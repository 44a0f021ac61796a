"""The interface of every recognition service, what it is asked and what it answers."""

from dataclasses import dataclass
from typing import Protocol

from app.deadline import Deadline
from app.recognition.matching import Candidate, Decision
from app.vision.faces import Face
from app.vision.packs import Calibration


@dataclass(frozen=True, slots=True)
class RecognitionRequest:
    """One probe.

    Attributes:
        image: the file's bytes.
        domain: the cleaned name of the domain, or its id in decimal digits.
        top_k: how many candidates to list per face.
        threshold: cosine distance that overrides the pack's; None keeps it.
        deadline: when the answer is of no more use.
        request_id: for the logs of all processes involved.
    """

    image: bytes
    domain: str
    top_k: int
    threshold: float | None
    deadline: Deadline
    request_id: str


@dataclass(frozen=True, slots=True)
class FaceResult:
    """One face of the probe with all that was found for it, at least two persons where there are two; nearest first."""

    face: Face
    decision: Decision
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class RecognitionResult:
    """What a service found in one probe.

    Attributes:
        mode: the service that answered: `pgvector` or `pkl`.
        domain: the domain's name.
        model: name of the pack.
        calibration: turns distances into confidences.
        threshold: the cosine distance that was applied.
        top_k: how many candidates to list per face.
        width_px, height_px: size of the probe as a viewer shows it.
        faces: largest first.
        timings_ms: decode, detect, embed, search.
    """

    mode: str
    domain: str
    model: str
    calibration: Calibration
    threshold: float
    top_k: int
    width_px: int
    height_px: int
    faces: tuple[FaceResult, ...]
    timings_ms: dict[str, float]


class RecognitionService(Protocol):
    """Names the faces of one picture from one domain's gallery."""

    mode: str

    def recognize(self, request: RecognitionRequest) -> RecognitionResult:
        """Search the domain's gallery with every face of the probe.

        Raises:
            DomainNotFound: no such domain.
            ContractMismatch: the domain's templates are another model's.
            ImageError, EmbedderError, DatabaseError: as their names say.
        """
        ...
