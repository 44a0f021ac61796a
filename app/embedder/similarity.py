"""How alike embeddings are. Pure NumPy; for vectors of any length, by whoever made them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.errors import InvalidVector

# A vector, or a matrix with one vector a row.
Vectors = npt.NDArray[np.floating] | Sequence[float] | Sequence[Sequence[float]]
Float64Array = npt.NDArray[np.float64]


def cosine_similarity_np(a: Vectors, b: Vectors) -> Float64Array:
    """Cosine similarity of every vector of `a` with every vector of `b`; the cosine distance is 1 minus it.

    Args:
        a: (D,) or (N, D), of any lengths but zero.
        b: (D,) or (M, D), likewise.

    Returns:
        float64, -1 to 1; of the shape (N, M), without the axis of whichever is a single vector: () for two of them.

    Raises:
        InvalidVector: another shape, different D, a vector of zeros, or a number that is not finite.
    """
    left, right = _units(a), _units(b)
    if left.shape[-1] != right.shape[-1]:
        raise InvalidVector(f"Vectors of {left.shape[-1]} and of {right.shape[-1]} dimensions cannot be compared.")
    return np.asarray(np.clip(left @ right.T, -1.0, 1.0), np.float64)


def _units(vectors: Vectors) -> Float64Array:
    """Scaled to length 1; float64, of the shape given."""
    try:
        array = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidVector("A vector is a list of numbers; several are of one length.") from None
    if array.ndim not in (1, 2) or array.shape[-1] == 0:
        raise InvalidVector(f"A vector has one axis, several have two; this has the shape {array.shape}.")
    if not np.isfinite(array).all():
        raise InvalidVector("A vector holds numbers that are not finite.")
    # First to numbers of about 1: the squares of very small or very large ones would leave the range of a float.
    largest = np.abs(array).max(axis=-1, keepdims=True)
    if not largest.all():
        raise InvalidVector("A vector of zeros has no direction.")
    scaled = array / largest
    return np.asarray(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True), np.float64)
