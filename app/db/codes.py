"""Codes of 1,024 bits that tell how near two unit vectors are, at a sixteenth of the size of one of 512 dimensions.

A bit is the side of a plane on which the vector lies. The planes were drawn at random, once and for all, so that two vectors
with an angle a between them differ in a bit with the probability a / pi, whatever model made them: of 1,024, how many differ is
binomially distributed. So there is a number of bits in which a template within the threshold differs once in a million at most;
one that differs in more need not be looked at. A vector that somebody makes to suit the planes is outside of this, which is one
reason to ask HNSW as well.

Source: M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms" (2002); the bound is Chernoff's.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np

from app.vision.faces import Float32Array, UInt8Array

BITS: Final = 1024
CODE_BYTES: Final = BITS // 8
MIN_DIMENSION: Final = 256
"""Of shorter vectors there are no codes: they are read in little more time than these would be."""

# Stored codes were made with it.
_SEED: Final = 20_261_129
_ROWS_AT_ONCE: Final = 8_192
_MISSED: Final = 1e-6
# To look a template up by its id takes some three times as long as to come by it in a scan.
_MOST_STRANGERS: Final = 0.1


def has_codes(dimension: int) -> bool:
    """Whether templates of so many dimensions are stored with their codes."""
    return dimension >= MIN_DIMENSION


def codes_of(units: Float32Array) -> UInt8Array:
    """The codes of vectors.

    Args:
        units: float32, (N, D).

    Returns:
        uint8, (N, 128): the bits, the first one highest.
    """
    planes = _planes(units.shape[1])
    codes = np.empty((len(units), CODE_BYTES), np.uint8)
    for start in range(0, len(units), _ROWS_AT_ONCE):
        part = units[start : start + _ROWS_AT_ONCE]
        codes[start : start + len(part)] = np.packbits(part @ planes >= 0, axis=1)
    return codes


@lru_cache(maxsize=1024)
def differing_bits(dimension: int, distance: float, strangers: float) -> int | None:
    """In how many bits a template may differ from a probe without being left out.

    Args:
        dimension: of the vectors.
        distance: cosine distance (0 to 2): one at just that distance is left out once in a million, nearer ones less often.
        strangers: of vectors in random directions, let in about that share in any case.

    Returns:
        0 to 1,024; None where so many of those would be let in that a scan is as quick.
    """
    needed = max(_bits_within(distance), _bits_of_strangers(dimension, strangers))
    return needed if needed <= _bits_of_strangers(dimension, _MOST_STRANGERS) else None


@lru_cache(maxsize=8)
def _planes(dimension: int) -> Float32Array:
    """The planes' normals: float32, (D, 1024)."""
    # The one generator whose numbers NumPy promises never to change.
    drawn = np.random.RandomState(_SEED).standard_normal((BITS, dimension))
    return np.ascontiguousarray(drawn.T, dtype=np.float32)


def _bits_within(distance: float) -> int:
    """The smallest number that more bits than it differ once in a million, or less often, at that distance."""
    p = math.acos(max(-1.0, min(1.0, 1.0 - distance))) / math.pi
    return next((bits for bits in range(math.ceil(BITS * p), BITS) if _chance_of(bits + 1, p) <= _MISSED), BITS)


def _chance_of(bits: int, p: float) -> float:
    """At most so often do that many bits or more differ, where each does with probability `p`; more than are to be expected."""
    if p <= 0.0:
        return 0.0
    share = bits / BITS
    entropy = share * math.log(share / p)
    if share < 1.0:
        entropy += (1.0 - share) * math.log((1.0 - share) / (1.0 - p))
    return math.exp(-BITS * entropy)


def _bits_of_strangers(dimension: int, share: float) -> int:
    """Of vectors in random directions, about that share differs in at most so many bits."""
    if share >= 1.0:
        return BITS
    # The angle to a random direction is a right one, give or take 1 / sqrt(D).
    deviation = math.sqrt(BITS / 4 + (BITS / math.pi) ** 2 / dimension)
    return max(0, round(BITS / 2 + NormalDist().inv_cdf(share) * deviation))
