"""The rows of a dataset in temporary files: read once, looked at as often as needed, without being held in memory."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from app.datasets.rows import RowBatch
from app.errors import DatasetNotWritten
from app.vision.faces import Box


class Spool:
    """Rows in the order in which they came. The files have no names: nothing is left of them, however the process ends."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: where there is room for the vectors; made where it does not exist.
        """
        self.rows = 0
        self.dimension = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._facts: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
            self._vectors: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise _unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._facts, self._vectors):
            with suppress(OSError):  # the disk is full, and what was still to be written is of no more use
                file.close()

    def append(self, batch: RowBatch) -> None:
        """Add rows at the end.

        Raises:
            DatasetNotWritten: the disk is full.
        """
        boxes = [None if box is None else [box.x, box.y, box.w, box.h] for box in batch.boxes]
        facts = zip(batch.identities, batch.labels, boxes, batch.has_embedding.tolist(), strict=True)
        try:
            self._facts.write(b"".join(json.dumps(row).encode() + b"\n" for row in facts))
            self._vectors.write(batch.embeddings[batch.has_embedding].tobytes())
            self._facts.flush()
            self._vectors.flush()
        except OSError as error:
            raise _unwritable(error) from error
        self.rows += len(batch)
        if batch.has_embedding.any():
            self.dimension = batch.embeddings.shape[1]

    def batches(self, size: int) -> Iterator[RowBatch]:
        """All rows from the first on, `size` at a time. One reader at a time."""
        self._facts.seek(0)
        self._vectors.seek(0)
        while lines := list(islice(self._facts, size)):
            yield self._batch([json.loads(line) for line in lines])

    def _batch(self, rows: list[tuple[str, str, list[int] | None, bool]]) -> RowBatch:
        present = np.array([row[3] for row in rows], dtype=np.bool_)
        raw = self._vectors.read(int(present.sum()) * self.dimension * 4)
        embeddings = np.zeros((len(rows), self.dimension), dtype=np.float32)
        embeddings[present] = np.frombuffer(raw, dtype=np.float32).reshape(-1, self.dimension or 1)
        return RowBatch(
            identities=[row[0] for row in rows],
            labels=[row[1] for row in rows],
            boxes=[None if row[2] is None else Box(*row[2]) for row in rows],
            embeddings=embeddings,
            has_embedding=present,
        )


def _unwritable(error: OSError) -> DatasetNotWritten:
    return DatasetNotWritten(f"The rows cannot be kept for the time of the migration: {error.strerror}.")
