"""The interface of every recognition service, what it is asked and what it answers."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from app.db.domains import DomainKey
from app.deadline import Deadline
from app.recognition.matching import Candidate, Decision
from app.vision.faces import Face, Float32Array
from app.vision.packs import Calibration


@dataclass(frozen=True, slots=True)
class RecognitionRequest:
    """One probe.

    Attributes:
        image: the file's bytes.
        domain: the cleaned name of the domain, or its id.
        top_k: how many candidates to list per face.
        threshold: cosine distance that overrides the pack's; None keeps it.
        deadline: when the answer is of no more use.
        request_id: for the logs of all processes involved.
        client: who asks: the pool serves its clients in turn.
    """

    image: bytes
    domain: str
    top_k: int
    threshold: float | None
    deadline: Deadline
    request_id: str
    client: str


@dataclass(frozen=True, slots=True)
class FaceResult:
    """One face of the probe with all that was found for it, at least two persons where there are two; nearest first."""

    face: Face
    decision: Decision
    candidates: tuple[Candidate, ...]


class FallbackReason(StrEnum):
    """Why the PKL service answered where pgvector was chosen."""

    NOT_MIGRATED = "not_migrated"
    """The domain is not, or not completely, in the database."""

    DATABASE_UNAVAILABLE = "database_unavailable"
    """The database could not be reached."""


@dataclass(frozen=True, slots=True)
class RecognitionResult:
    """What was found in one probe.

    Attributes:
        mode: the service that answered: `pgvector` or `pkl`.
        domain: the domain's name.
        model: name of the pack.
        calibration: turns distances into confidences.
        threshold: the cosine distance that was applied.
        top_k: how many candidates to list per face.
        width_px, height_px: size of the probe as a viewer shows it.
        faces: largest first.
        timings_ms: decode, detect, embed, search; of a picture that came again `cache` in place of the first three.
        fallback_reason: why it is not the service that the configuration chose; None where it is.
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
    fallback_reason: FallbackReason | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """How to search a gallery.

    Attributes:
        contract: id of the probes' embedding contract.
        top_k: persons to find per probe.
        threshold: largest cosine distance that counts as the same person's.
        margin: least lead, in distance, of the first person over the second.
    """

    contract: str
    top_k: int
    threshold: float
    margin: float


@dataclass(frozen=True, slots=True)
class FaceHits:
    """What was found for one probe, nearest first; `path` is the way it was found, for the log."""

    candidates: tuple[Candidate, ...]
    path: str


class OpenGallery(Protocol):
    """A domain's gallery that a service found."""

    @property
    def domain(self) -> str:
        """The domain's name."""
        ...

    @property
    def key(self) -> DomainKey | None:
        """What faces that were extracted for it are kept under; None: they are not kept."""
        ...

    @property
    def complete(self) -> bool:
        """False while its first migration has not finished: it must not be searched then."""
        ...

    def searched(
        self, probes: Sequence[Float32Array], query: SearchQuery, deadline: Deadline
    ) -> AbstractContextManager[list[FaceHits]]:
        """The nearest persons for each probe. What asks the same database in the block may do so in the same transaction.

        Args:
            probes: float32, (D,) each, unit length.

        Raises: as the block is entered:
            ContractMismatch: the gallery's templates are another model's.
            DomainNotFound, DomainNotMigrated: the domain was deleted meanwhile, and perhaps made anew.
            DatabaseError: as its name says.
        """
        ...


class RecognitionService(Protocol):
    """Finds galleries in one kind of storage."""

    mode: str

    def open(self, domain: str, deadline: Deadline) -> OpenGallery:
        """The domain's gallery; costs no worker of the pool.

        Raises:
            DomainNotFound: there is none of that name.
            ContractMismatch, DatasetUnavailable, DatabaseError: as their names say.
        """
        ...
