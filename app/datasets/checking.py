"""Rows as they were parsed to rows that can be used: the person's name, the vector's numbers, and the count of what fails."""

from typing import Any

import numpy as np
import numpy.typing as npt

from app.datasets.frames import FrameError, parse_rows
from app.datasets.labels import label_of
from app.datasets.names import MODEL_DIMENSIONS
from app.datasets.rows import ReadReport, RowBatch
from app.datasets.shapes import RawRow
from app.errors import InvalidName
from app.vision.faces import Box, Float32Array


class RowChecker:
    """Checks one dataset's rows, frame by frame."""

    def __init__(self, model: str, report: ReadReport) -> None:
        """
        Args:
            model: DeepFace's, in lower case. It tells how long the vectors are; for an unknown one, the first vector does.
            report: counts what is found.
        """
        self._lengths = MODEL_DIMENSIONS.get(model, ())
        self._root: str | None = None
        self._report = report

    def take(self, header: dict[str, Any], raw: bytes) -> RowBatch | None:
        """The rows of a frame; None where it has none that can be used.

        Raises:
            FrameError: the frame makes no sense.
        """
        if "root" in header:
            self._see_layout(header)
            return None
        if "end" in header:
            return None
        rows, malformed = parse_rows(header, raw)
        self._report.malformed += malformed
        self._report.rows += len(rows) + malformed
        named = [(row, label) for row in rows if (label := self._label(row)) is not None]
        return self._batch([row for row, _ in named], [label for _, label in named]) if named else None

    def _see_layout(self, header: dict[str, Any]) -> None:
        root, self._report.flat = header["root"], header.get("flat") is True
        pictures = header.get("pictures")
        if (root is not None and not isinstance(root, str)) or not isinstance(pictures, int):
            raise FrameError
        self._root = root
        self._report.expected = pictures

    def _label(self, row: RawRow) -> str | None:
        try:
            label = label_of(row.identity, self._root)
        except InvalidName:
            self._report.bad_identity += 1
            return None
        self._report.no_label += label is None
        return label

    def _batch(self, rows: list[RawRow], labels: list[str]) -> RowBatch:
        embeddings, usable = self._embeddings([row.vector for row in rows])
        self._report.delivered += len(rows)
        self._report.embeddings += int(usable.sum())
        boxes = [None if row.box is None else Box(*row.box) for row in rows]
        return RowBatch([row.identity for row in rows], labels, boxes, embeddings, usable)

    def _embeddings(self, vectors: list[Float32Array]) -> tuple[Float32Array, npt.NDArray[np.bool_]]:
        lengths = np.array([len(vector) for vector in vectors])
        dimension = self._dimension(lengths)
        fitting = lengths == dimension if dimension else np.zeros(len(vectors), dtype=np.bool_)
        embeddings = np.zeros((len(vectors), dimension), dtype=np.float32)
        if fitting.any():
            embeddings[fitting] = [vector for vector, fits in zip(vectors, fitting, strict=True) if fits]
        finite = np.isfinite(embeddings).all(axis=1)
        usable = fitting & finite & (embeddings != 0).any(axis=1)
        self._report.no_vector += int((lengths == 0).sum())
        self._report.wrong_length += int(((lengths > 0) & ~fitting).sum())
        self._report.not_finite += int((fitting & ~finite).sum())
        self._report.zero_norm += int((fitting & finite & ~usable).sum())
        embeddings[~usable] = 0
        return embeddings, usable

    def _dimension(self, lengths: npt.NDArray[np.int64]) -> int:
        """The dataset's, once a vector of a length that its model makes was seen; until then 0."""
        if self._report.dimension is None:
            expected = [
                int(length) for length in lengths if length in self._lengths or (length > 1 and not self._lengths)
            ]
            self._report.dimension = expected[0] if expected else None
        return self._report.dimension or 0
