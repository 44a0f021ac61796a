"""The picture of a face that dlib's embedder takes: upright, cut with a margin, and of one size."""

from typing import Final

CHIP_SIZE_PX: Final = 150
CHIP_PADDING: Final = 0.25
