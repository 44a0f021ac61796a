"""Measures of a face that decide whether it may be enrolled."""

import cv2

from app.vision.faces import UInt8Array

_SHARPNESS_SIDE_PX = 112


def sharpness(chip_bgr: UInt8Array) -> float:
    """Variance of the Laplacian of an aligned face, on grey values, at 112 x 112 pixels whatever the chip's size.

    Args:
        chip_bgr: uint8, (S, S, 3); the order of the colours hardly matters.

    Source: Pech-Pacheco et al. (2000), "Diatom autofocusing in brightfield microscopy".
    """
    grey = cv2.cvtColor(chip_bgr, cv2.COLOR_BGR2GRAY)
    if grey.shape[0] != _SHARPNESS_SIDE_PX:
        grey = cv2.resize(grey, (_SHARPNESS_SIDE_PX, _SHARPNESS_SIDE_PX), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())
