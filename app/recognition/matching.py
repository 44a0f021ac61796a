"""From a face's candidates to a decision. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Decision(StrEnum):
    """What is said of one face."""

    MATCH = "match"
    """One person is near enough, and clearly nearer than any other."""

    AMBIGUOUS = "ambiguous"
    """Somebody is near enough, but two persons are too close to each other to tell."""

    UNKNOWN = "unknown"
    """Nobody is near enough."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person of the gallery, as near to the probe as the nearest of their templates.

    Attributes:
        person_id: None where the gallery has no ids (PKL).
        label: the person's label in the domain.
        name: the name to show.
        distance: cosine distance (0 to 2) of the nearest template.
        occurrences: how many of the person's templates are within the threshold.
        mean_distance: of those templates; None where there are none.
    """

    person_id: UUID | None
    label: str
    name: str
    distance: float
    occurrences: int
    mean_distance: float | None


def decide(candidates: Sequence[Candidate], *, threshold: float, margin: float) -> Decision:
    """Decide about one face.

    Args:
        candidates: nearest first, one per person.
        threshold: largest cosine distance that counts as the same person.
        margin: least lead, in distance, of the first candidate over the second.
    """
    if not candidates or candidates[0].distance > threshold:
        return Decision.UNKNOWN
    if len(candidates) > 1 and candidates[1].distance - candidates[0].distance < margin:
        return Decision.AMBIGUOUS
    return Decision.MATCH
