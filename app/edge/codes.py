"""Vectors rounded to 8 bits: a quarter of the memory to go through, and a bound of how far a product may be off."""

from typing import Any, Final

import numkong
import numpy as np
from numpy.typing import NDArray

from app.edge.members import Float32Array

Int8Array = NDArray[np.int8]

_LEVELS: Final = 127
# Vectors that are encoded at once, so that all of it stays in the processor's cache.
_ENCODED: Final = 256
# So many probes, and packing them for the product of matrices is quicker than one row with one row; and the rows at a time.
_PACKED_MIN: Final = 3
_BLOCK: Final = 4_096


def encode(vectors: NDArray[Any]) -> tuple[Int8Array, Float32Array, Float32Array]:
    """Round vectors to 8 bits.

    Args:
        vectors: float32 or float16, (N, D).

    Returns:
        codes, int8, (N, D), -127 to 127; steps, float32, (N,): a vector is about `codes * step`; and an upper bound of the
        length of what was rounded off, float32, (N,).
    """
    codes = np.empty(vectors.shape, dtype=np.int8)
    steps, errors = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _ENCODED):
        some = slice(start, start + _ENCODED)
        exact = vectors[some].astype(np.float32, copy=False)
        largest = np.maximum(exact.max(axis=1, initial=0.0), -exact.min(axis=1, initial=0.0))
        # Never so small that the inverse is infinite.
        step = np.maximum(largest * np.float32(1 / _LEVELS), np.float32(1e-30))[:, None]
        rounded = exact * (1 / step)
        np.rint(rounded, out=rounded)
        codes[some] = rounded
        rounded *= step
        np.subtract(exact, rounded, out=rounded)
        steps[some] = step[:, 0]
        # A little more, for what float32 rounds off here and in the products.
        errors[some] = np.sqrt(np.einsum("nd,nd->n", rounded, rounded)) * np.float32(1.001) + np.float32(1e-6)
    return codes, steps, errors


def products(probes: Int8Array, probe_steps: Float32Array, rows: Int8Array, row_steps: Float32Array) -> Float32Array:
    """The products of what the codes stand for.

    Args:
        probes: int8, (B, D). probe_steps: float32, (B,).
        rows: int8, (N, D). row_steps: float32, (N,).

    Returns:
        float32, (B, N).
    """
    if len(probes) < _PACKED_MIN:
        found = np.asarray(numkong.cdist(probes, rows, "dot")).astype(np.float32)
    else:
        found = np.empty((len(probes), len(rows)), dtype=np.float32)
        packed = numkong.dots_pack(probes)
        for start in range(0, len(rows), _BLOCK):
            some = slice(start, start + _BLOCK)
            found[:, some] = np.asarray(numkong.dots_packed(rows[some], packed)).T
    found *= row_steps
    found *= probe_steps[:, None]
    return found
