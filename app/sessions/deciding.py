"""Whether the frames of a verification show the person. Pure.

The statistic is the mean, over the good frames so far, of the frame's distance to the nearest of the person's templates. It is
looked at after `min_frames` good frames, after twice as many, and so on, and after `max_frames` of them; it accepts where it is
within the distance that the stated rate of false matches, divided by the number of looks, allows a single frame.

Nothing else accepts, the end neither: the sender sees the mean after each frame, and can bring the end about after any of them,
by saying so or by frames that are no good. A look at a number of frames that they choose would be a look at each.

What the rate means: frames of one stream resemble each other. Were they all alike, each look would be a look at one frame,
wrong as often as a single one is; the less they are alike, the more rarely is the mean of an impostor's as low. So each look is
wrong no more often than one frame at that distance is, and all of them together no more often than the sum: the stated rate
holds without supposing that frames are independent. It holds for people who show their own face, as far as the pack's rates do;
nothing here tells a face from a photograph of it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from app.sessions.limits import SessionLimits
from app.vision.packs import Calibration


class Verdict(StrEnum):
    """How far a verification is."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """It has come to its end and was not accepted, or cannot be any more."""

    TOO_FEW = "too_few_frames"
    """There are no more frames, and fewer good ones than the first look needs."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verification has seen so far. Each frame makes a new one: what was not stored has not happened.

    Attributes:
        limits: the session's.
        threshold: the largest mean that is accepted.
        frames: good frames.
        total: the sum of their distances.
        strangers: how many of them are clearly somebody else's.
    """

    limits: SessionLimits
    threshold: float
    frames: int = 0
    total: float = 0.0
    strangers: int = 0

    @property
    def mean(self) -> float | None:
        """The mean distance; None before the first good frame."""
        return self.total / self.frames if self.frames else None

    def with_frame(self, distance: float, *, stranger: bool) -> "Evidence":
        """One more good frame at that distance."""
        return replace(self, frames=self.frames + 1, total=self.total + distance, strangers=self.strangers + stranger)

    def verdict(self, frames_left: int) -> Verdict:
        """Where the session may look at so many more frames.

        It is rejected early only where nothing that may still come could change that: distances are not below 0.
        """
        if frames_left <= 0 or self._accepts:
            return self.final
        return Verdict.REJECTED if self.total > self.threshold * (self.frames + frames_left) else Verdict.OPEN

    @property
    def final(self) -> Verdict:
        """What it comes to where there are no more frames."""
        if self.frames < (self.limits.min_frames or 1):
            return Verdict.TOO_FEW
        return Verdict.ACCEPTED if self._accepts else Verdict.REJECTED

    @property
    def _accepts(self) -> bool:
        return self.frames in looks(self.limits) and self.total <= self.threshold * self.frames

    def to_json(self) -> dict[str, Any]:
        """What `restored` takes."""
        return {"frames": self.frames, "total": self.total, "strangers": self.strangers}

    def restored(self, data: dict[str, Any]) -> "Evidence":
        """As it was stored; nothing where nothing was."""
        return replace(
            self, frames=data.get("frames", 0), total=data.get("total", 0.0), strangers=data.get("strangers", 0)
        )


def looks(limits: SessionLimits) -> frozenset[int]:
    """After how many good frames the mean is looked at."""
    at, counts = limits.min_frames or 1, {limits.max_frames}
    while at < limits.max_frames:
        counts.add(at)
        at *= 2
    return frozenset(counts)


def threshold_of(limits: SessionLimits, calibration: Calibration) -> float:
    """The largest mean distance that is accepted, 0 or less where the rate cannot be promised: at most the pack's threshold."""
    return calibration.distance_at((limits.false_match_rate or 1e-3) / len(looks(limits)))
