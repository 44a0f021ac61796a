"""A small picture of one face, cut out of the picture that it was found in."""

from typing import Final

import cv2
import numpy as np

from app.errors import InvalidImage
from app.vision.faces import Box, UInt8Array
from app.vision.images import decode_image
from app.vision.memory import is_lack_of_memory

SIDE_PX: Final = 128
# Room around the box, so that hair and chin are seen: people know people by more than detectors do.
_MARGIN: Final = 1.6
_QUALITY: Final = 80


def make_thumbnail(image_bytes: bytes, box: Box, *, max_pixels: int) -> bytes:
    """Cut out a square around a face, and make it small.

    Args:
        image_bytes: a JPEG, PNG, WebP or BMP file.
        box: the face, in pixels of the picture as a viewer shows it; what of it is outside is not seen.
        max_pixels: largest width times height that is decoded.

    Returns:
        a WebP file of at most 128 x 128 pixels (a smaller square is not enlarged), without any of the picture's metadata.

    Raises:
        InvalidImage, UnsupportedImage, ImageTooLarge: the picture cannot be decoded.
        MemoryError: there is not enough memory for it.
    """
    try:
        square = _around(decode_image(image_bytes, max_pixels=max_pixels), box)
        side = min(SIDE_PX, square.shape[0])
        small = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
        done, encoded = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    except cv2.error as error:
        if is_lack_of_memory(error):
            raise MemoryError from error
        raise
    if not done:
        raise InvalidImage("No small picture can be made of this one.")
    return np.asarray(encoded, np.uint8).tobytes()


def _around(image_bgr: UInt8Array, box: Box) -> UInt8Array:
    """The square around the box, moved and cut so that it lies inside the picture; uint8, (S, S, 3)."""
    height, width = image_bgr.shape[:2]
    side = max(1, min(round(_MARGIN * max(box.w, box.h)), width, height))
    left = min(max(box.x + box.w // 2 - side // 2, 0), width - side)
    top = min(max(box.y + box.h // 2 - side // 2, 0), height - side)
    return image_bgr[top : top + side, left : left + side]
