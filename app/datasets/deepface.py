"""Reads the datasets that DeepFace has written over the years, each of which may come from an enemy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.datasets.rows import DatasetInfo, DatasetRow, ReadLimits, ReadReport, RowBatch

DEFAULT_LIMITS: Final = ReadLimits()


def find_dataset(path: Path) -> Path:
    """The dataset at `path`: a file, or the only one in a folder. Hidden files are no datasets.

    Raises:
        DatasetNotFound: there is none.
        AmbiguousDataset: there are several; the message names them.
        InvalidDataset: it is a device, a pipe or the like.
    """
    raise NotImplementedError


def describe(path: Path) -> DatasetInfo:
    """What is known without reading the rows; the file is read once, for its digest.

    Raises:
        DatasetNotFound, AmbiguousDataset, InvalidDataset: as `find_dataset`; neither a pickle nor a zip archive.
    """
    raise NotImplementedError


def read_batches(
    path: Path, *, allow_numpy: bool = False, limits: ReadLimits = DEFAULT_LIMITS, report: ReadReport | None = None
) -> Iterator[RowBatch]:
    """The rows of a dataset of any form, in batches of some MiB."""
    raise NotImplementedError


def read_rows(
    path: Path, *, allow_numpy: bool = False, limits: ReadLimits = DEFAULT_LIMITS, report: ReadReport | None = None
) -> Iterator[DatasetRow]:
    """As `read_batches`, row by row."""
    raise NotImplementedError
