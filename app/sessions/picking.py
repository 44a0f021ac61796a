"""Which frames of an enrolment become templates. Pure.

Frames are put into groups, one for each face that was seen. A frame belongs to a group where it is within the pack's
threshold of one of the group's kept frames and not far from any: a group cannot wander from one face to another. The largest
group is the person; the first frame does not decide it, since it may be a passer-by's. Where the person has templates already,
they decide who it is. A single frame of somebody else is passed over; two end the session.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from app.enrolment.quality import is_same_photo
from app.sessions.frames import Reason
from app.sessions.limits import SessionLimits
from app.vision.faces import Float32Array

FAR: Final = 1.5
"""In shares of the pack's threshold: beyond it, it is somebody else. Of the genuine pairs of 100 pictures none was, of the
impostor pairs 97 in 100 were; between the threshold and this, nobody can tell."""

# In shares of the threshold: what a frame has to add to those that are kept. Much at first, and hardly anything when the frames
# run out: a person who does not move is to be enrolled too.
_NEW_AT_FIRST: Final = 0.35
_NEW_AT_LAST: Final = 0.02
_MOST_STRANGERS: Final = 1


class Outcome(StrEnum):
    """How far an enrolment is."""

    OPEN = "open"
    ENOUGH = "enough"
    """As many templates as are wanted."""

    SEVERAL_PERSONS = "several_persons"
    """Frames of more than one person, and more than a single one that may be passed over."""

    TOO_FEW = "too_few_frames"
    """There are no more frames, and not as many good ones as are needed."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A frame that may become a template: its number in the session, its group, float32 (D,) at unit length."""

    number: int
    group: int
    embedding: Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Picks:
    """What an enrolment has seen so far. Each frame makes a new one: what was not stored has not happened.

    Attributes:
        threshold: the pack's.
        limits: the session's.
        known: templates that the person has already, float32, (N, D): the frames have to be of that person.
        kept: the frames to be stored, of all groups.
        counts: good frames in each group, also those that were not kept.
        outsiders: good frames that are not the person's, as the known templates say.
    """

    threshold: float
    limits: SessionLimits
    known: Sequence[Float32Array] = ()
    kept: tuple[Kept, ...] = ()
    counts: tuple[int, ...] = ()
    outsiders: int = 0

    @property
    def main(self) -> int:
        """The group of the person: that with the most frames, of equal ones the first."""
        return max(range(len(self.counts)), key=lambda group: (self.counts[group], -group), default=0)

    @property
    def chosen(self) -> tuple[Kept, ...]:
        """The frames that are to become templates, in their order."""
        own = tuple(kept for kept in self.kept if kept.group == self.main)
        return own[: self.limits.templates]

    @property
    def strangers(self) -> int:
        """How many good frames are of somebody else."""
        return self.outsiders + sum(self.counts) - max(self.counts, default=0)

    @property
    def outcome(self) -> Outcome:
        """Whether it goes on."""
        if self.strangers > _MOST_STRANGERS:
            return Outcome.SEVERAL_PERSONS
        return Outcome.ENOUGH if len(self.chosen) >= (self.limits.templates or 0) else Outcome.OPEN

    @property
    def final(self) -> Outcome:
        """What it comes to where there are no more frames."""
        if self.outcome is Outcome.OPEN:
            return Outcome.ENOUGH if len(self.chosen) >= (self.limits.min_templates or 1) else Outcome.TOO_FEW
        return self.outcome

    def look(self, embedding: Float32Array, number: int) -> tuple["Picks", Reason | None]:
        """Take one good frame into account.

        Args:
            embedding: float32, (D,), unit length.
            number: of the frame, from 1.

        Returns:
            what is so afterwards, and why the frame was not taken; None where it was.
        """
        known = min((_distance(embedding, other) for other in self.known), default=None)
        if known is not None and known > self.threshold:
            outside = replace(self, outsiders=self.outsiders + 1)
            return (outside, Reason.ANOTHER_PERSON) if known > self._far else (self, Reason.UNLIKE)
        group, distance = self._group_of(embedding)
        if group is None and distance <= self._far:
            return self, Reason.UNLIKE
        is_new = self._is_new(min(distance, np.inf if known is None else known), number)
        if group is None and not is_new:
            return self, Reason.TOO_SIMILAR  # to what the person has
        if group is None:
            group, counted = len(self.counts), replace(self, counts=(*self.counts, 1))
        else:
            counted = replace(self, counts=tuple(count + (at == group) for at, count in enumerate(self.counts)))
        if not is_new or sum(kept.group == group for kept in self.kept) >= (self.limits.templates or 0):
            return counted, Reason.TOO_SIMILAR
        taken = replace(counted, kept=(*self.kept, Kept(number, group, embedding)))
        return taken, None if group == taken.main else Reason.ANOTHER_PERSON

    def _group_of(self, embedding: Float32Array) -> tuple[int | None, float]:
        """The nearest group that the face belongs to, and how far it is; None, and how far the nearest face is, else."""
        least = np.inf
        best: tuple[float, int] | None = None
        for group in range(len(self.counts)):
            distances = [_distance(embedding, kept.embedding) for kept in self.kept if kept.group == group]
            nearest = min(distances)
            least = min(least, nearest)
            if nearest <= self.threshold and max(distances) <= self._far:
                best = min(filter(None, (best, (nearest, group))))
        return (None, float(least)) if best is None else (best[1], best[0])

    def _is_new(self, distance: float, number: int) -> bool:
        passed = min(1.0, number / self.limits.max_frames)
        least = self.threshold * (_NEW_AT_FIRST + passed * (_NEW_AT_LAST - _NEW_AT_FIRST))
        return distance >= least and not is_same_photo(distance, self.threshold)

    @property
    def _far(self) -> float:
        return FAR * self.threshold


def _distance(one: Float32Array, other: Float32Array) -> float:
    return max(0.0, 1.0 - float(np.dot(one.astype(np.float64), other.astype(np.float64))))
