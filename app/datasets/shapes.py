"""The shapes that a row has had over DeepFace's versions."""

import math
from typing import Any, Final, NamedTuple

import numpy as np

from app.datasets.pickles import PickledArray, spread
from app.vision.faces import Float32Array

# Longer paths are refused; Linux knows none.
IDENTITY_MAX_CHARS: Final = 4096
_COORDINATE_MAX: Final = 1_000_000
_DIMENSION_MAX: Final = 65_536
_NO_VECTOR: Final = np.empty(0, dtype=np.float32)

BoxNumbers = tuple[int, int, int, int]


class RawRow(NamedTuple):
    """One row before anything is known of its person.

    Attributes:
        identity: the picture's path.
        vector: float32, (D,); D is 0 where there is none.
        box: x, y, w, h in pixels; None where the row has none.
    """

    identity: str
    vector: Float32Array
    box: BoxNumbers | None


def raw_row(value: Any) -> RawRow | None:
    """What a pickled row says; None where it has no shape that DeepFace ever wrote.

    Args:
        value: as from `pickled_rows`.
    """
    match value:
        case dict():
            identity, vector = value.get("identity"), value.get("embedding", value)
            box = tuple(value.get(f"target_{name}") for name in "xywh")
        case [identity, vector]:
            box = ()
        case [identity, vector, *numbers] if len(box := tuple(spread(numbers))) == 4:
            pass
        case _:
            return None
    found = _vector(vector)
    if not isinstance(identity, str) or len(identity) > IDENTITY_MAX_CHARS or found is None:
        return None
    return RawRow(identity, found, box_numbers(box))


def box_numbers(values: tuple[Any, ...]) -> BoxNumbers | None:
    """x, y, w, h in whole pixels, cut where the picture begins; None where they are no box."""
    if len(values) != 4 or not all(isinstance(value, int | float) for value in values):
        return None
    if not all(math.isfinite(value) and abs(value) <= _COORDINATE_MAX for value in values):
        return None
    left, top, width, height = (round(value) for value in values)
    x, y = max(0, left), max(0, top)
    w, h = left + width - x, top + height - y
    return (x, y, w, h) if w > 0 and h > 0 else None


def _vector(value: Any) -> Float32Array | None:
    """float32, (D,); empty for None or an empty list; None where it is no vector at all."""
    if value is None:
        return _NO_VECTOR
    if isinstance(value, PickledArray):
        return value.values
    if not isinstance(value, list | tuple) or not all(isinstance(part, np.ndarray | int | float) for part in value):
        return None
    if not value:
        return _NO_VECTOR
    if sum(np.size(part) for part in value) > _DIMENSION_MAX:
        return None
    with np.errstate(over="ignore"):
        return np.concatenate([np.atleast_1d(np.asarray(part, dtype=np.float32)) for part in value])
