"""Writes datasets that DeepFace reads, a row at a time, so that a gallery of any size takes no memory."""

import os
import pickle
import secrets
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from app.datasets.rows import DatasetRow
from app.errors import ContractMismatch, DatasetNotWritten

Form = Literal["pkl", "npz"]

# DeepFace compares it with its own digest of the picture's size and times, and embeds a picture anew where they differ. We know
# neither, and an empty text equals no digest.
_NO_HASH: Final = ""
# Without frames and with numbers of its own, so that the pickles of single rows can stand side by side in a list.
_PROTOCOL: Final = 3
_SIDES: Final = ("target_x", "target_y", "target_w", "target_h")
_NO_BOX: Final = (0, 0, 0, 0)


def write_deepface(path: Path, rows: Iterable[DatasetRow], *, form: Form = "pkl") -> int:
    """Write rows as DeepFace keeps them: whole, or not at all, and then what was there before stays.

    The numbers of a vector are the same bits when they are read again as float32.

    Args:
        path: the file; `app.datasets.names.deepface_file_name` says where DeepFace looks for it.
        rows: all of one length of vector; those without a vector are written as DeepFace writes a picture without a face.
        form: `pkl`, a list of dicts, is read by DeepFace 0.0.86 to 0.0.101; `npz` from 0.0.102.

    Returns:
        How many rows were written.

    Raises:
        DatasetNotWritten: the disk is full, or the folder refuses.
        ContractMismatch: vectors differ in length.

    Source: `find` and `__load_representations` in `deepface/modules/recognition.py`.
    """
    write = _write_pickle if form == "pkl" else _write_npz
    try:
        with replacing(path) as file:
            return write(file, _of_one_length(rows), path.parent)
    except _SourceFailed as failed:
        raise failed.error from None
    except OSError as error:
        raise DatasetNotWritten(f"The dataset could not be written: {error.strerror or 'the disk refuses'}.") from error


class _SourceFailed(Exception):
    """Where the rows come from failed: a lost connection is an OSError too, but none of the disk's."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error


def _of_one_length(rows: Iterable[DatasetRow]) -> Iterator[DatasetRow]:
    dimension = None
    source = iter(rows)
    while (row := _next(source)) is not None:
        if row.embedding is not None:
            dimension = dimension or len(row.embedding)
            if row.embedding.shape != (dimension,):
                raise ContractMismatch("The dataset's vectors differ in length.")
        yield row


def _next(source: Iterator[DatasetRow]) -> DatasetRow | None:
    try:
        return next(source, None)
    except OSError as error:
        raise _SourceFailed(error) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when the block ends without an error."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{secrets.token_hex(8)}.part"
    # Faces are personal: for nobody but the owner, unless the file that is replaced says otherwise.
    before = path.stat() if path.exists() else None
    try:
        beside.touch(before.st_mode & 0o777 if before else 0o600, exist_ok=False)
        if before is not None:
            with suppress(OSError):  # only root may, and only root needs to
                os.chown(beside, before.st_uid, before.st_gid)
        with beside.open("r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """After a power cut the name may else stand for the file that was there before."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _box(row: DatasetRow) -> tuple[int, int, int, int]:
    return (row.box.x, row.box.y, row.box.w, row.box.h) if row.box and row.embedding is not None else _NO_BOX


def _write_pickle(file: IO[bytes], rows: Iterable[DatasetRow], _: Path) -> int:
    """A list to which one dict after the other is appended."""
    return write_pickled_rows(file, map(_entry, rows))


def _entry(row: DatasetRow) -> dict[str, Any]:
    embedding = None if row.embedding is None else row.embedding.astype(np.float32).tolist()
    return {"identity": row.identity, "hash": _NO_HASH, "embedding": embedding} | dict(
        zip(_SIDES, _box(row), strict=True)
    )


def write_pickled_rows(file: IO[bytes], rows: Iterable[Any]) -> int:
    """Write a pickled list of plain values, and NumPy's arrays under the names that all versions of it know.

    Returns:
        How many rows there were.
    """
    count = 0
    start, stop = pickle.PROTO + bytes([_PROTOCOL]), pickle.STOP
    file.write(start + pickle.EMPTY_LIST)
    for row in rows:
        pickled = pickle.dumps(row, _PROTOCOL).removeprefix(start).removesuffix(stop)
        if isinstance(row, list | tuple):  # the form in which vectors may be arrays; the name comes before any data
            pickled = pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
        file.write(pickled + pickle.APPEND)
        count += 1
    file.write(stop)
    return count


def _write_npz(file: IO[bytes], rows: Iterable[DatasetRow], folder: Path) -> int:
    """An archive of one array a column. The vectors wait in a file of their own until their number is known."""
    identities: list[str] = []
    present: list[bool] = []
    boxes: list[tuple[int, int, int, int]] = []
    dimension = 0
    with tempfile.TemporaryFile(dir=folder) as vectors:
        for row in rows:
            identities.append(row.identity)
            boxes.append(_box(row))
            present.append(row.embedding is not None)
            if row.embedding is not None:
                dimension = len(row.embedding)
                vectors.write(row.embedding.astype("<f8").tobytes())
        vectors.seek(0)
        sides = np.array(boxes, dtype=np.int64).reshape(-1, len(_SIDES))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _add_vectors(archive, vectors, present, dimension)
            _add(archive, "has_embedding", np.array(present, dtype=np.bool_))
            _add(archive, "identity", np.array(identities, dtype=np.str_))
            _add(archive, "hash", np.array([_NO_HASH] * len(identities), dtype=np.str_))
            for name, column in zip(_SIDES, sides.T, strict=True):
                _add(archive, name, np.ascontiguousarray(column))
    return len(identities)


def _add(archive: zipfile.ZipFile, name: str, column: npt.NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        npy_format.write_array(entry, column, version=(1, 0), allow_pickle=False)


def _add_vectors(archive: zipfile.ZipFile, vectors: IO[bytes], present: list[bool], dimension: int) -> None:
    """The float64 matrix (N, D), with zeros where there is no vector."""
    zeros = bytes(8 * dimension)
    header = {"descr": "<f8", "fortran_order": False, "shape": (len(present), dimension)}
    with archive.open("embedding.npy", "w", force_zip64=True) as entry:
        npy_format.write_array_header_1_0(entry, header)
        for there in present:
            entry.write(vectors.read(len(zeros)) if there else zeros)
