"""Measures of a face that decide whether it may be enrolled."""

import cv2
import numpy as np

from app.vision.faces import UInt8Array

_SIDE_PX = 112
# Eyes to mouth in both kinds of chip: hair, collar and background may be sharp where the face is not.
_CORE = (slice(28, 100), slice(24, 88))


def sharpness(chip: UInt8Array) -> float:
    """Variance of the Laplacian of an aligned face's middle, on grey values, at 112 x 112 pixels whatever the chip's size.

    Args:
        chip: uint8, (S, S, 3); which colour comes first hardly matters. Black is taken for outside the picture: the edge
            between picture and black is sharp in every picture.

    Source: Pech-Pacheco et al. (2000), "Diatom autofocusing in brightfield microscopy".
    """
    grey = cv2.cvtColor(chip, cv2.COLOR_BGR2GRAY)
    if grey.shape[0] != _SIDE_PX:
        grey = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    inside = cv2.erode((grey > 0).astype(np.uint8), np.ones((5, 5), np.uint8))[_CORE] > 0
    edges = cv2.Laplacian(grey, cv2.CV_64F)[_CORE][inside]
    return float(edges.var()) if edges.size else 0.0
