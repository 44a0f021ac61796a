"""Measures of a face that decide whether it may be enrolled, or counts as a frame of a session."""

import cv2
import numpy as np

from app.vision.faces import FaceQuality, Float32Array, UInt8Array

_SIDE_PX = 112
# Eyes to mouth in both kinds of chip: hair, collar and background may be sharp where the face is not.
_CORE = (slice(28, 100), slice(24, 88))


def measure(size_px: int, chip: UInt8Array, eyes: Float32Array, nose: Float32Array) -> FaceQuality:
    """All measures of one face.

    Args:
        size_px: the shorter side of its box.
        chip: as of `sharpness`.
        eyes: float32, (2, 2), x-y in the picture: the eye that is left as seen, then the other.
        nose: float32, (2,), likewise.
    """
    return FaceQuality(size_px, sharpness(chip), brightness(chip), turn(eyes, nose))


def sharpness(chip: UInt8Array) -> float:
    """Variance of the Laplacian of an aligned face's middle, on grey values, at 112 x 112 pixels whatever the chip's size.

    Args:
        chip: uint8, (S, S, 3); which colour comes first hardly matters. Black is taken for outside the picture: the edge
            between picture and black is sharp in every picture.

    Source: Pech-Pacheco et al. (2000), "Diatom autofocusing in brightfield microscopy".
    """
    grey, inside = _grey(chip)
    edges = cv2.Laplacian(grey, cv2.CV_64F)[_CORE][inside]
    return float(edges.var()) if edges.size else 0.0


def brightness(chip: UInt8Array) -> float:
    """Mean grey value of an aligned face's middle, 0 to 255, without what is outside the picture; `chip` as of `sharpness`."""
    grey, inside = _grey(chip)
    values = grey[_CORE][inside]
    return float(values.mean()) if values.size else 0.0


def turn(eyes: Float32Array, nose: Float32Array) -> float:
    """How far the nose is off the middle between the eyes, along their line, as a share of their distance.

    Args:
        eyes: float32, (2, 2), x-y: the eye that is left as seen, then the other.
        nose: float32, (2,).

    Returns:
        0 for who looks straight ahead, positive towards the right as seen; some 0.5 for a head turned by 45 degrees. Eyes that
        coincide are taken for a profile.
    """
    line = np.asarray(eyes[1] - eyes[0], np.float64)
    length = float(np.linalg.norm(line))
    if length < 1.0:
        return 1.0
    return float((nose - (eyes[0] + eyes[1]) / 2) @ line) / length**2


def _grey(chip: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
    """The chip on grey values, uint8, (112, 112), and which of its middle's pixels are inside the picture, bool."""
    grey = cv2.cvtColor(chip, cv2.COLOR_BGR2GRAY)
    if grey.shape[0] != _SIDE_PX:
        grey = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return grey, cv2.erode((grey > 0).astype(np.uint8), np.ones((5, 5), np.uint8))[_CORE] > 0
