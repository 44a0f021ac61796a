"""What the vision part says about a picture. Needs NumPy only, so that the web process may import it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

# Which faces get an embedding: all, the largest only, or none.
Embed = Literal["all", "largest", "none"]

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-parallel rectangle in pixels of the picture as a viewer shows it (EXIF orientation applied).

    `x`, `y` is the upper left corner; the box lies inside the picture.
    """

    x: int
    y: int
    w: int
    h: int

    @property
    def area_px(self) -> int:
        """Width times height, in square pixels."""
        return self.w * self.h


@dataclass(frozen=True, slots=True)
class FaceQuality:
    """What decides whether a face is good enough to enrol.

    Attributes:
        size_px: the shorter side of the box, in pixels.
        sharpness: variance of the Laplacian of the aligned grey face, comparable within one pack only.
        brightness: mean grey value of the aligned face's middle, 0 to 255; None where it was not measured.
        turn: how far the nose is off the middle between the eyes, as a share of their distance: 0 looks straight ahead, positive
            towards the picture's right; None where it was not measured.
    """

    size_px: int
    sharpness: float
    brightness: float | None = None
    turn: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of a picture.

    Attributes:
        box: where the face is.
        score: the detector's own score; higher is surer; the scale belongs to the pack.
        landmarks: float32, (5, 2), x-y in pixels: left eye, right eye, nose, left and right mouth corner, as seen. For
            packs whose predictor gives other points (dlib: eye corners and nose), those in that predictor's order.
        quality: size and sharpness.
        embedding: float32, (D,), unit length; None where only detection was asked for.
    """

    box: Box
    score: float
    landmarks: Float32Array
    quality: FaceQuality
    embedding: Float32Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """All faces of one picture, largest box first.

    Attributes:
        width_px, height_px: size of the picture as a viewer shows it.
        faces: largest first.
        model: name of the pack that made it.
        contract: id of the embedding contract, `EmbeddingContract.id`.
        timings_ms: time by stage: decode, detect, embed.
    """

    width_px: int
    height_px: int
    faces: tuple[Face, ...]
    model: str
    contract: str
    timings_ms: dict[str, float] = field(default_factory=dict)


def summed_timings(analyses: Iterable[Analysis]) -> dict[str, float]:
    """Milliseconds by stage, over all pictures."""
    total_ms: dict[str, float] = {}
    for analysis in analyses:
        for stage, elapsed_ms in analysis.timings_ms.items():
            total_ms[stage] = total_ms.get(stage, 0.0) + elapsed_ms
    return total_ms
