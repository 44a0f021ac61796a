"""What the process that parses a dataset sends to the one that asked: lengths, JSON, raw numbers. No pickle."""

import json
import struct
from typing import Any, BinaryIO, Final

import numpy as np

from app.datasets.shapes import RawRow
from app.vision.faces import Float32Array

_LENGTHS: Final = struct.Struct("<II")
LENGTHS_BYTES: Final = _LENGTHS.size
# Small, since somebody who took the sender over could fill them with what takes the most memory as Python's objects.
_JSON_MAX_BYTES: Final = 2 * 1024**2
_RAW_MAX_BYTES: Final = 4 * 1024**2
_FLUSH_ROWS: Final = 1024
_FLUSH_VECTOR_BYTES: Final = 1024**2
# A character takes up to twelve bytes of JSON.
_FLUSH_CHARS: Final = 128 * 1024


class FrameError(Exception):
    """What came is no frame, or one larger than any that is sent."""


def write_frame(stream: BinaryIO, header: dict[str, Any], raw: bytes = b"") -> None:
    """Send one frame."""
    text = json.dumps(header, separators=(",", ":")).encode()
    stream.write(_LENGTHS.pack(len(text), len(raw)))
    stream.write(text)
    stream.write(raw)
    stream.flush()


def parse_lengths(data: bytes) -> tuple[int, int]:
    """The lengths of a frame's JSON and of its numbers, from its first `LENGTHS_BYTES` bytes.

    Raises:
        FrameError: it is no frame.
    """
    if len(data) != _LENGTHS.size:
        raise FrameError
    json_bytes, raw_bytes = _LENGTHS.unpack(data)
    if json_bytes > _JSON_MAX_BYTES or raw_bytes > _RAW_MAX_BYTES:
        raise FrameError
    return json_bytes, raw_bytes


class RowSender:
    """Collects rows and sends some MiB of them at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._rows: list[RawRow] = []
        self._vector_bytes = 0
        self._chars = 0
        self._malformed = 0

    def send(self, row: RawRow | None) -> None:
        """Take one row; None is one of no known shape."""
        if row is None:
            self._malformed += 1
            return
        self._rows.append(row)
        self._vector_bytes += row.vector.nbytes
        self._chars += len(row.identity)
        if self._vector_bytes >= _FLUSH_VECTOR_BYTES or self._chars >= _FLUSH_CHARS or len(self._rows) >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Send what was collected."""
        rows, malformed = self._rows, self._malformed
        self._rows, self._vector_bytes, self._chars, self._malformed = [], 0, 0, 0
        header = {
            "identities": [row.identity for row in rows],
            "boxes": [row.box for row in rows],
            "lengths": [len(row.vector) for row in rows],
            "malformed": malformed,
        }
        vectors = np.concatenate([row.vector for row in rows]) if rows else np.empty(0, np.float32)
        write_frame(self._stream, header, vectors.astype("<f4", copy=False).tobytes())


def parse_rows(header: dict[str, Any], raw: bytes) -> tuple[list[RawRow], int]:
    """The rows of a frame, each checked, since the sender has met a hostile file; and how many were of no known shape.

    Raises:
        FrameError: they are no rows.
    """
    try:
        identities, boxes, lengths = header["identities"], header["boxes"], header["lengths"]
        if sum(lengths) * 4 != len(raw) or min(lengths, default=0) < 0:
            raise FrameError
        ends = np.cumsum(lengths, dtype=np.int64)
        numbers: Float32Array = np.frombuffer(raw, "<f4").astype(np.float32, copy=False)
        vectors = np.split(numbers, ends[:-1]) if lengths else []
        return [_checked(*row) for row in zip(identities, vectors, boxes, strict=True)], int(header["malformed"])
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError from error


def _checked(identity: Any, vector: Float32Array, box: Any) -> RawRow:
    match identity, box:
        case str(), None:
            return RawRow(identity, vector, None)
        case str(), [int(x), int(y), int(w), int(h)] if min(x, y) >= 0 and min(w, h) > 0:
            return RawRow(identity, vector, (x, y, w, h))
    raise FrameError
