"""Templates as PostgreSQL's binary COPY stream, encoded column by column for all rows at once.

Source of the form: PostgreSQL's manual, `COPY`, "Binary Format"; of `bit`: `varbit_send`; of `vector`: pgvector `vector_send`.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from app.db.codes import BITS, CODE_BYTES, codes_of, has_codes
from app.vision.faces import Float32Array, UInt8Array

Int32Array = npt.NDArray[np.int32]

COPY_COLUMNS: Final = (
    "domain_id, id, person_id, image_sha256, box_x, box_y, box_w, box_h, score, sharpness, code, embedding"
)
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER: Final = struct.pack(">h", -1)
_NULL: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class TemplateBatch:
    """Templates to load, column by column; N of each.

    Attributes:
        ids, person_ids: uint8, (N, 16), the bytes of UUIDs.
        embeddings: float32, (N, D), unit length.
        image_sha256: uint8, (N, 32), of the pictures; None where none was seen.
        boxes: int32, (N, 4): x, y, w, h in pixels; zeros where unknown.
        scores, sharpness: float32, (N,); zero where unknown.
    """

    ids: UInt8Array
    person_ids: UInt8Array
    embeddings: Float32Array
    image_sha256: UInt8Array | None
    boxes: Int32Array
    scores: Float32Array
    sharpness: Float32Array

    def __len__(self) -> int:
        return len(self.ids)


def copy_stream(domain_id: int, batch: TemplateBatch) -> bytes:
    """The whole stream of `COPY … (COPY_COLUMNS) FROM STDIN (FORMAT BINARY)`."""
    count, dimension = batch.embeddings.shape
    columns: list[tuple[str, npt.NDArray[Any] | None]] = [
        (">i4", np.full((count, 1), domain_id)),
        ("u1", batch.ids),
        ("u1", batch.person_ids),
        ("u1", batch.image_sha256),
        *((">i4", batch.boxes[:, side : side + 1]) for side in range(4)),
        (">f4", batch.scores[:, None]),
        (">f4", batch.sharpness[:, None]),
        ("u1", _codes(batch.embeddings) if has_codes(dimension) else None),
    ]
    fields = [field for n, (kind, values) in enumerate(columns) for field in _field(n, kind, values)]
    fields += [("size", ">i4"), ("dimension", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dimension,))]
    rows = np.zeros(count, dtype=[("columns", ">i2"), *fields])
    rows["columns"] = len(columns) + 1
    for n, (_kind, values) in enumerate(columns):
        rows[f"size{n}"] = _NULL if values is None else rows.dtype[f"value{n}"].itemsize
        if values is not None:
            rows[f"value{n}"] = values
    rows["size"] = 4 + 4 * dimension
    rows["dimension"] = dimension
    rows["vector"] = batch.embeddings
    return _HEADER + rows.tobytes() + _TRAILER


def _codes(units: Float32Array) -> UInt8Array:
    """The codes, each after its number of bits: uint8, (N, 132)."""
    fields = np.empty((len(units), 4 + CODE_BYTES), np.uint8)
    fields[:, :4] = np.frombuffer(struct.pack(">i", BITS), np.uint8)
    fields[:, 4:] = codes_of(units)
    return fields


def _field(number: int, kind: str, values: npt.NDArray[Any] | None) -> list[tuple[Any, ...]]:
    """A value's length and, unless it is null, the value."""
    size = (f"size{number}", ">i4")
    return [size] if values is None else [size, (f"value{number}", kind, (values.shape[1],))]
