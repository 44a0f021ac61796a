"""The rows of a dataset, read once and looked at as often as needed: their vectors in a temporary file, the rest in memory."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt

from app.datasets.rows import RowBatch
from app.db.copying import Int32Array
from app.errors import DatasetNotWritten
from app.vision.faces import Box, Float32Array

_INT32: Final = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class SpooledBatch:
    """As `RowBatch`, but for `boxes`: int32, (N, 4), x, y, w, h; zeros where the dataset does not say."""

    identities: list[str]
    labels: list[str]
    boxes: Int32Array
    embeddings: Float32Array
    has_embedding: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


class Spool:
    """Rows in the order in which they came. The file has no name: nothing is left of it, however the process ends."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: where there is room for the vectors; made where it does not exist.
        """
        self.dimension = 0
        self._identities: list[str] = []
        self._labels: list[str] = []
        self._boxes: list[Int32Array] = []
        self._present: list[npt.NDArray[np.bool_]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._vectors: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise _unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the disk is full, and what was still to be written is of no more use
            self._vectors.close()

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._identities)

    @property
    def identities(self) -> list[str]:
        """The path of each row's picture, as the dataset has it."""
        return self._identities

    def append(self, batch: RowBatch) -> None:
        """Add rows at the end.

        Raises:
            DatasetNotWritten: the disk is full.
        """
        try:
            self._vectors.write(batch.embeddings[batch.has_embedding].tobytes())
            self._vectors.flush()
        except OSError as error:
            raise _unwritable(error) from error
        self._identities += batch.identities
        self._labels += map(sys.intern, batch.labels)
        self._boxes.append(_as_columns(batch.boxes))
        self._present.append(batch.has_embedding)
        if batch.has_embedding.any():
            self.dimension = batch.embeddings.shape[1]

    def batches(self, size: int) -> Iterator[SpooledBatch]:
        """All rows from the first on, `size` at a time. One reader at a time."""
        self._vectors.seek(0)
        boxes = np.concatenate(self._boxes) if self._boxes else _as_columns([])
        present = np.concatenate(self._present) if self._present else np.zeros(0, np.bool_)
        for start in range(0, self.rows, size):
            part = slice(start, start + size)
            yield SpooledBatch(
                identities=self._identities[part],
                labels=self._labels[part],
                boxes=boxes[part],
                embeddings=self._read(present[part]),
                has_embedding=present[part],
            )

    def _read(self, present: npt.NDArray[np.bool_]) -> Float32Array:
        raw = self._vectors.read(int(present.sum()) * self.dimension * 4)
        embeddings = np.zeros((len(present), self.dimension), dtype=np.float32)
        embeddings[present] = np.frombuffer(raw, dtype=np.float32).reshape(-1, self.dimension or 1)
        return embeddings


def _as_columns(boxes: list[Box | None]) -> Int32Array:
    """int32, (N, 4); zeros where nothing is known. Numbers that no picture has are cut to what a column holds."""
    sides = [(0, 0, 0, 0) if box is None else (box.x, box.y, box.w, box.h) for box in boxes]
    whole = np.array(sides, dtype=np.float64).reshape(len(boxes), 4)
    return np.clip(whole, _INT32.min, _INT32.max).astype(np.int32)


def _unwritable(error: OSError) -> DatasetNotWritten:
    return DatasetNotWritten(f"The rows cannot be kept for the time of the migration: {error.strerror}.")
