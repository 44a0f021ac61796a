"""Two embeddings to a verdict. Pure."""

from dataclasses import dataclass

import numpy as np

from app.vision.faces import Float32Array
from app.vision.packs import Calibration


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two faces compare.

    Attributes:
        verified: whether they count as one person's: `distance` is at most `threshold`.
        distance: cosine distance, 0 to 2.
        threshold: the distance that was applied.
        confidence: calibrated probability in percent that they are one person's; 50 at the pack's own threshold, whatever
            threshold was applied.
    """

    verified: bool
    distance: float
    threshold: float
    confidence: float


def compare(a: Float32Array, b: Float32Array, calibration: Calibration, threshold: float | None = None) -> Comparison:
    """Compare two embeddings of one contract.

    Args:
        a, b: float32, (D,), unit length.
        calibration: of the pack that made them.
        threshold: cosine distance that overrides the pack's; None keeps it.
    """
    applied = calibration.threshold if threshold is None else threshold
    # Of a vector with itself, rounding makes the product a little more or less than 1.
    distance = min(2.0, max(0.0, 1.0 - float(np.dot(a.astype(np.float64), b.astype(np.float64)))))
    return Comparison(distance <= applied, distance, applied, calibration.confidence(distance))
