"""Detector output in fractions of pixels to boxes inside the picture."""

import math

from app.vision.faces import Box


def clipped_box(left: float, top: float, right: float, bottom: float, *, width_px: int, height_px: int) -> Box | None:
    """The part of a rectangle that lies in the picture, in whole pixels; None where nothing or less than a pixel does.

    `right` and `bottom` are exclusive, as all four are positions between pixels.
    """
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return None
    x, y = max(0, round(left)), max(0, round(top))
    w, h = min(width_px, round(right)) - x, min(height_px, round(bottom)) - y
    return Box(x, y, w, h) if w > 0 and h > 0 else None
