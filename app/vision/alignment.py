"""Cutting a face out as ArcFace embedders expect it."""

import cv2
import numpy as np

from app.vision.faces import Float32Array, UInt8Array

CHIP_SIZE_PX = 112
# Source: insightface `face_align.arcface_dst`.
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


def fits_template(landmarks: Float32Array) -> bool:
    """Whether a similarity transform exists: the points are finite and not all (nearly) the same."""
    return bool(np.isfinite(landmarks).all()) and float(np.ptp(landmarks, axis=0).max()) >= 1.0


def align_face(image_bgr: UInt8Array, landmarks: Float32Array) -> UInt8Array:
    """Warp one face onto the ArcFace five-point template.

    Args:
        image_bgr: uint8, (H, W, 3).
        landmarks: float32, (5, 2), x-y in pixels: left eye, right eye, nose, left and right mouth corner, as seen. They
            have to pass `fits_template`.

    Returns:
        uint8, (112, 112, 3), BGR; black outside the picture.

    Source: insightface `face_align.norm_crop`; the fit is Umeyama (1991).
    """
    matrix = _similarity(landmarks.astype(np.float64))
    shrink = int(1 / np.hypot(matrix[0, 0], matrix[1, 0]))
    if shrink > 1:
        # The warp looks at four pixels for each of its own: of a much larger face it would see a random few.
        image_bgr, matrix = _reduced(image_bgr, matrix, shrink)
    return np.asarray(cv2.warpAffine(image_bgr, matrix, (CHIP_SIZE_PX, CHIP_SIZE_PX)), np.uint8)


def _similarity(landmarks: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray:
    """The 2x3 matrix of the similarity transform (no mirroring) that takes the points closest to the template."""
    source = landmarks @ np.array([1, 1j])
    target = _TEMPLATE @ np.array([1, 1j])
    from_centre, to_centre = source - source.mean(), target - target.mean()
    turn = np.vdot(from_centre, to_centre) / np.vdot(from_centre, from_centre).real
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _reduced(image_bgr: UInt8Array, matrix: np.ndarray, shrink: int) -> tuple[UInt8Array, np.ndarray]:
    """The part of the picture that the chip shows, averaged over shrink x shrink pixels, and its matrix."""
    height, width = image_bgr.shape[:2]
    corners = np.array([[0, 0, 1], [CHIP_SIZE_PX, 0, 1], [0, CHIP_SIZE_PX, 1], [CHIP_SIZE_PX, CHIP_SIZE_PX, 1]])
    places = corners @ cv2.invertAffineTransform(matrix).T
    x0, y0 = np.clip(np.floor(places.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(places.max(axis=0)) + shrink, (x0 + 1, y0 + 1), (width, height)).astype(int)
    part = image_bgr[y0:y1, x0:x1]
    size = max(1, part.shape[1] // shrink), max(1, part.shape[0] // shrink)
    reduced = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    step = np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
    # A pixel of the reduced part stands for the middle of those it was made from.
    origin = np.array([x0, y0]) + (step - 1) / 2
    moved = np.column_stack([matrix[:, :2] * step, matrix[:, :2] @ origin + matrix[:, 2]])
    return np.asarray(reduced, np.uint8), moved
