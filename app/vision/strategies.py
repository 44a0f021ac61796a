"""Ever more tolerant ways of looking for a face in a picture in which the usual one finds none.

Old reference photos are small, lie on their side, are cut out too tightly, or are faint. Each strategy shows the detector the
picture in another way; what it finds is told in pixels of the picture as a viewer shows it, so that nobody need know how it was
found. Pure: a detector is whatever finds faces.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from app.vision.boxes import clipped_box
from app.vision.faces import Effort, Face, UInt8Array

# A face without its embedding, and its aligned chip, uint8, (S, S, 3).
AlignedFace = tuple[Face, UInt8Array]
# Finds the faces of a picture, uint8, (H, W, 3), BGR, with at least a score, at so many times the size at which it usually
# searches: smaller faces are found at a larger one.
Detect = Callable[[UInt8Array, float, float], list[AlignedFace]]
# 2 x 3, from places in the picture to places in what the detector is shown. Places are between pixels, as those of boxes.
Matrix = npt.NDArray[np.float64]

# What the detector is shown is a copy, of which a larger one would show it nothing more.
_LONGEST_SIDE_PX: Final = 2048
_HALF_PIXEL: Final = 0.5


@dataclass(frozen=True, slots=True)
class MinScores:
    """How sure a detector has to be of a face.

    Attributes:
        certain: so sure that there is nothing more to be tried. Below it, a face that lies on its side may be seen as if it did
            not, and its landmarks are wrong.
        strict: for a face that is believed as it is.
        tolerant: for one that is taken where no strategy shows a surer one.
    """

    certain: float
    strict: float
    tolerant: float


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of looking.

    Attributes:
        name: what `Analysis.strategy` says; with `-tolerant` behind it where the detector was not sure.
        zoom: at how many times the usual size the detector searches.
        padding: what is added on each side, as a share of the longer one.
        angle_deg: by how much the picture is turned, clockwise.
    """

    name: str
    zoom: float = 1.0
    padding: float = 0.0
    angle_deg: float = 0.0

    @property
    def cost(self) -> float:
        """How long it takes, at most, in times of the usual look: it grows with the pixels that are searched."""
        angle = math.radians(self.angle_deg % 90)
        return (self.zoom * (1 + 2 * self.padding) * (math.cos(angle) + math.sin(angle))) ** 2


USUAL: Final = Strategy("usual")
_TURNED: Final = tuple(Strategy(f"turned-{angle}", angle_deg=angle) for angle in (90, 270, 180))
_RESIZED: Final = (Strategy("enlarged", zoom=2.0), Strategy("reduced", zoom=0.5), Strategy("padded", padding=0.5))
_TILTED: Final = tuple(Strategy(f"tilted{angle:+}", angle_deg=angle) for angle in (-20, 20, -40, 40))
# In turn; those of a group are compared with each other. Turns come first: some detectors see a face that lies on its side as
# if it did not, less surely, and find landmarks where there are none. Enlarged, it would seem as good as an upright one.
GROUPS: Final = ((USUAL, *_TURNED), _RESIZED, _TILTED)
NONE_FOUND: Final = "none"


def search(
    image_bgr: UInt8Array, detect: Detect, scores: MinScores, effort: Effort, before_each: Callable[[Strategy], None]
) -> tuple[list[AlignedFace], str]:
    """Faces, and the name of the strategy that found them.

    In the first group of strategies that show the detector a face, it is the one that shows it the surest; one that it is
    certain of ends the search. Where none does, the surest is taken of what the detector is not usually sure of: one face,
    since others may be anything.

    Args:
        image_bgr: uint8, (H, W, 3).
        effort: `usual` is one look, whatever it finds.
        before_each: called before each strategy but the usual one; may raise to give up.
    """
    if effort == "usual":
        return detect(image_bgr, USUAL.zoom, scores.strict), USUAL.name
    best, name = detect(image_bgr, USUAL.zoom, scores.tolerant), USUAL.name
    for group in GROUPS:
        for strategy in group:
            if _surest(best) >= scores.certain:
                break
            if strategy is not USUAL:
                before_each(strategy)
                found = _found_by(strategy, image_bgr, detect, scores)
                best, name = (found, strategy.name) if _surest(found) > _surest(best) else (best, name)
        if _surest(best) >= scores.strict:
            return [item for item in best if _score(item) >= scores.strict], name
    return ([max(best, key=_score)], f"{name}-tolerant") if best else ([], NONE_FOUND)


def _score(item: AlignedFace) -> float:
    return item[0].score


def _surest(found: list[AlignedFace]) -> float:
    return max(map(_score, found), default=-math.inf)


def _found_by(strategy: Strategy, image_bgr: UInt8Array, detect: Detect, scores: MinScores) -> list[AlignedFace]:
    shown, matrix = shown_picture(image_bgr, strategy)
    height, width = image_bgr.shape[:2]
    faces = (
        (face_in_picture(face, matrix, width_px=width, height_px=height), chip)
        for face, chip in detect(shown, strategy.zoom, scores.tolerant)
    )
    return [(face, chip) for face, chip in faces if face is not None]


def shown_picture(image_bgr: UInt8Array, strategy: Strategy) -> tuple[UInt8Array, Matrix]:
    """What a strategy shows the detector, and how places get there.

    Args:
        image_bgr: uint8, (H, W, 3).

    Returns:
        uint8, (H', W', 3), at most 2,048 pixels on its long side before anything is added; and the matrix.
    """
    height, width = image_bgr.shape[:2]
    scale = min(1.0, _LONGEST_SIDE_PX / max(height, width))
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    shown = image_bgr
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = np.array([[size[0] / width, 0, 0], [0, size[1] / height, 0]])
    if strategy.padding:
        added = round(strategy.padding * max(shown.shape[:2]))
        sides = (added, added, added, added)
        shown = np.asarray(cv2.copyMakeBorder(shown, *sides, cv2.BORDER_CONSTANT, value=_mean_colour(shown)), np.uint8)
        matrix = matrix + np.array([[0, 0, added], [0, 0, added]])
    if strategy.angle_deg:
        shown, turn = _turned(shown, strategy.angle_deg)
        matrix = _after(turn, matrix)
    return np.ascontiguousarray(shown), matrix


def face_in_picture(face: Face, matrix: Matrix, *, width_px: int, height_px: int) -> Face | None:
    """A face of what the detector was shown, in pixels of the picture; None where it lies outside of it.

    The box of a tilted face is not turned: it has the same middle and size, and its sides are those of the picture.
    """
    back = np.asarray(cv2.invertAffineTransform(matrix), np.float64)
    box = face.box
    middle = back @ np.array([box.x + box.w / 2, box.y + box.h / 2, 1.0])
    lies_on_its_side = abs(back[0, 1]) > abs(back[0, 0])
    scale = float(np.sqrt(abs(np.linalg.det(back[:, :2]))))
    half = np.array([box.h, box.w] if lies_on_its_side else [box.w, box.h]) * scale / 2
    clipped = clipped_box(*(middle - half).tolist(), *(middle + half).tolist(), width_px=width_px, height_px=height_px)
    if clipped is None:
        return None
    # Landmarks are pixels, whose places are their middles.
    places = np.column_stack([face.landmarks + _HALF_PIXEL, np.ones(len(face.landmarks))]) @ back.T - _HALF_PIXEL
    return replace(
        face,
        box=clipped,
        landmarks=places.astype(np.float32),
        quality=replace(face.quality, size_px=min(clipped.w, clipped.h)),
    )


def _turned(image: UInt8Array, angle_deg: float) -> tuple[UInt8Array, Matrix]:
    """The whole picture turned clockwise, on a canvas that it fits on."""
    height, width = image.shape[:2]
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    size = np.abs(turn) @ np.array([width, height])
    size_px = np.ceil(size - 1e-6)
    shift = size_px / 2 - turn @ np.array([width / 2, height / 2])
    matrix = np.column_stack([turn, shift])
    pixels = _after(matrix, np.array([[1, 0, _HALF_PIXEL], [0, 1, _HALF_PIXEL]])) - [[0, 0, _HALF_PIXEL]]
    quarters = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
    if angle_deg in quarters:
        return np.asarray(cv2.rotate(image, quarters[int(angle_deg)]), np.uint8), matrix
    canvas = int(size_px[0]), int(size_px[1])
    return np.asarray(cv2.warpAffine(image, pixels, canvas, borderValue=_mean_colour(image)), np.uint8), matrix


def _mean_colour(image: UInt8Array) -> tuple[float, ...]:
    """What is added to a picture: with it, more faces that fill their picture are found than with its edge, repeated or
    mirrored, or with black.
    """
    return tuple(map(float, cv2.mean(image)[:3]))


def _after(second: Matrix, first: Matrix) -> Matrix:
    """The matrix that does `first`, then `second`."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])
