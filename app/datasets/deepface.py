"""Reads the datasets that DeepFace has written over the years, each of which may come from an enemy.

The files are opened for reading only, and parsed in another process (`app/datasets/sandbox.py`) which knows data and no code
(`app/datasets/pickles.py`). `docs/decisions/0005-reading-pickles.md` says why.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.datasets.checking import RowChecker
from app.datasets.frames import FrameError
from app.datasets.names import model_and_detector
from app.datasets.rows import DatasetInfo, DatasetRow, ReadLimits, ReadReport, RowBatch
from app.datasets.sandbox import parser
from app.errors import AmbiguousDataset, DatasetNotFound, DatasetTooLarge, InvalidDataset

DEFAULT_LIMITS: Final = ReadLimits()

_SUFFIXES: Final = (".pkl", ".npz")
_SIGNATURE_SUFFIX: Final = ".ldsa"
_NAMED_MAX: Final = 5
_MAGIC_BYTES: Final = 2
_PICKLE: Final = b"\x80"
_ZIP: Final = b"PK"
_OTHERS: Final = {
    b"\x1f\x8b": "gzip",
    b"BZ": "bzip2",
    b"\xfd7": "xz",
    b"(\xb5": "zstd",
    b"PA": "Parquet",
    b"AR": "Feather",
}


def find_dataset(path: Path) -> Path:
    """The dataset at `path`: a file, or the only `.pkl` or `.npz` in a folder. Hidden files are no datasets.

    Raises:
        DatasetNotFound: there is none.
        AmbiguousDataset: there are several; the message names them.
        InvalidDataset: it is a device, a pipe or the like.
    """
    try:
        if not path.is_dir():
            _require_file(path.stat().st_mode, path)
            return path
        found = sorted(entry for entry in path.iterdir() if is_dataset(entry))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _not_found(path) from error
    if not found:
        raise DatasetNotFound(f"The folder {shown(path)} holds no dataset, that is, no .pkl or .npz file.")
    if len(found) > 1:
        names = ", ".join(shown(entry) for entry in found[:_NAMED_MAX]) + (", …" if len(found) > _NAMED_MAX else "")
        raise AmbiguousDataset(f"The folder {shown(path)} holds {len(found)} datasets: {names}. Name one.")
    return found[0]


def describe(path: Path) -> DatasetInfo:
    """What is known of the dataset at `path` without reading its rows. The file is read once, for its digest.

    Raises:
        DatasetNotFound, AmbiguousDataset, InvalidDataset: as `find_dataset`; or it is neither a pickle nor a zip archive.
    """
    path = find_dataset(path)
    model, detector = model_and_detector(path.name)
    with _opened(path) as (handle, size):
        form = _form(handle)
        with open(handle, "rb", closefd=False) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return DatasetInfo(path, digest, model, detector, form, size, signature_of(path).exists())


def signature_of(path: Path) -> Path:
    """Where DeepFace keeps its signature of a dataset, if it signed it."""
    return path.with_name(path.name + _SIGNATURE_SUFFIX)


def read_batches(
    path: Path, *, allow_numpy: bool = False, limits: ReadLimits = DEFAULT_LIMITS, report: ReadReport | None = None
) -> Iterator[RowBatch]:
    """The rows of a dataset of any form, in its order, about a MiB at a time.

    All of a pickle's instructions are looked at before its first row is handed out: nothing comes of a file that asks for code.
    A file may still turn out damaged in the middle: who stores rows must be able to take them back.

    Args:
        path: a file or a folder, as for `find_dataset`.
        allow_numpy: accept the three names by which DeepFace before 0.0.51 kept vectors. Nothing is called by them.
        limits: what the file may cost.
        report: is filled with what was read and what could not be used, while it is read.

    Raises:
        At the first row or later:
        DatasetNotFound, AmbiguousDataset: as `find_dataset`.
        UnsafeDataset: the file asks for code to be run. None was.
        InvalidDataset: it is truncated, damaged or no dataset.
        DatasetTooLarge: it is beyond the limits.
    """
    path = find_dataset(path)
    report = ReadReport() if report is None else report
    checker = RowChecker(model_and_detector(path.name)[0], report)
    with _opened(path) as (handle, size):
        if size > limits.max_bytes:
            raise DatasetTooLarge(f"The dataset has {size} bytes; {limits.max_bytes} are read at most.")
        _require_readable(handle)
        with parser(handle, size, limits, allow_numpy=allow_numpy) as running:
            for header, raw in running.frames():
                try:
                    batch = checker.take(header, raw)
                except FrameError as error:
                    raise InvalidDataset("The process that parsed the dataset answered nonsense.") from error
                if batch is not None:
                    yield batch


def read_rows(
    path: Path, *, allow_numpy: bool = False, limits: ReadLimits = DEFAULT_LIMITS, report: ReadReport | None = None
) -> Iterator[DatasetRow]:
    """As `read_batches`, row by row."""
    path = find_dataset(path)
    model, detector = model_and_detector(path.name)
    for batch in read_batches(path, allow_numpy=allow_numpy, limits=limits, report=report):
        for n, identity in enumerate(batch.identities):
            embedding = batch.embeddings[n] if batch.has_embedding[n] else None
            yield DatasetRow(identity, batch.labels[n], embedding, batch.boxes[n], model, detector)


def shown(path: Path) -> str:
    """A file's name as a message may show it: without its folders, and without what a terminal would act upon."""
    return "".join(char if char.isprintable() else "?" for char in path.name[:200])


def is_dataset(path: Path) -> bool:
    """Whether a file in a folder is taken for a dataset, by its name."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """A regular file's descriptor, read only, and its size. A pipe in its place cannot make us wait."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _not_found(path) from error
    try:
        facts = os.fstat(handle)
        _require_file(facts.st_mode, path)
        yield handle, facts.st_size
    finally:
        os.close(handle)


def _require_file(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise InvalidDataset(f"{shown(path)} is no file.")


def _not_found(path: Path) -> DatasetNotFound:
    return DatasetNotFound(f"There is no dataset {shown(path)}, or it may not be read.")


def _require_readable(handle: int) -> bytes:
    """The file's first bytes, unless they tell what it is instead of a dataset."""
    magic = os.pread(handle, _MAGIC_BYTES, 0)
    if not magic:
        raise InvalidDataset("The dataset is empty.")
    if magic in _OTHERS:
        raise InvalidDataset(f"The file is {_OTHERS[magic]}, which is not read: neither a pickle nor an .npz archive.")
    return magic


def _form(handle: int) -> str:
    magic = _require_readable(handle)
    if magic == _ZIP:
        return "npz"
    if magic[:1] != _PICKLE:
        raise InvalidDataset("The file is neither a pickle nor an .npz archive.")
    return "pickle"
