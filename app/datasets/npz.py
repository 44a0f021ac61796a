"""Reads the rows of a `.npz` dataset a few hundred at a time, so that no array is ever whole in memory."""

import encodings.cp437  # noqa: F401 - zipfile asks for it when no file can be opened any more
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy_format

from app.datasets.labels import FolderLayout
from app.datasets.shapes import RawRow, box_numbers
from app.errors import DatasetTooLarge, InvalidDataset

# The columns that are read, and the kinds of NumPy's types that they may have. DeepFace's `hash` is of no use here.
_KINDS: Final = {
    "identity": "U",
    "embedding": "f",
    "has_embedding": "b",
    "target_x": "iuf",
    "target_y": "iuf",
    "target_w": "iuf",
    "target_h": "iuf",
}
# DeepFace does not compress. Of what somebody compressed, names and flags shrink a lot, but vectors hardly do.
_MAX_RATIO: Final = 100
_RATIO_FROM_BYTES: Final = 16 * 1024**2
_MAX_ENTRIES: Final = 64
_ITEM_MAX_BYTES: Final = 512 * 1024
_PORTION_BYTES: Final = 1024**2
_HEADER_MAX_BYTES: Final = 1024
# RuntimeError: an encrypted entry, or a feature of zip that is not known.
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


class NpzDataset:
    """An opened `.npz` dataset."""

    def __init__(self, file: BinaryIO, *, max_rows: int) -> None:
        """
        Raises:
            InvalidDataset: no zip archive, a column is missing, or its arrays are no columns of one table.
            DatasetTooLarge: it would unpack to far more than it is, or has too many rows.
        """
        self._archive = _open(file)
        self._entries = _entries(self._archive)
        with ExitStack() as stack:
            columns = {name: self._column(name, stack) for name in _KINDS}
        lengths = {column.length for column in columns.values()}
        if len(lengths) != 1:
            raise InvalidDataset("The archive's columns differ in length.")
        self._length = lengths.pop()
        if self._length > max_rows:
            raise DatasetTooLarge(f"The dataset announces {self._length} rows.")
        # The same number of rows of all columns in one go.
        self._portion = max(1, _PORTION_BYTES // sum(column.item_bytes for column in columns.values()))

    def layout(self) -> FolderLayout:
        """How the pictures lie in folders."""
        layout = FolderLayout()
        for (identities,) in self._portions("identity"):
            for identity in identities:
                layout.see(identity)
        return layout

    def identities(self) -> Iterator[str]:
        """The pictures' paths, of all rows in order."""
        for (identities,) in self._portions("identity"):
            yield from identities

    def rows(self) -> Iterator[RawRow]:
        """All rows, in order.

        Raises:
            InvalidDataset: a column is truncated or damaged.
        """
        empty = np.empty(0, dtype=np.float32)
        for identities, vectors, present, *sides in self._portions(*_KINDS):
            for identity, vector, there, *box in zip(identities, vectors, present, *sides, strict=True):
                yield RawRow(identity, vector if there else empty, box_numbers(tuple(box)))

    def _portions(self, *names: str) -> Iterator[list[Any]]:
        with ExitStack() as stack:
            columns = [self._column(name, stack) for name in names]
            for start in range(0, self._length, self._portion):
                count = min(self._portion, self._length - start)
                yield [column.read(count) for column in columns]

    def _column(self, name: str, stack: ExitStack) -> "_Column":
        entry = self._entries[name]
        try:
            stream = stack.enter_context(self._archive.open(entry))
        except _UNREADABLE as error:
            raise InvalidDataset(f"The archive's column {name} cannot be read.") from error
        return _Column(name, stream, entry.file_size)


class _Column:
    """One array of the archive, read from its beginning on."""

    def __init__(self, name: str, stream: IO[bytes], size: int) -> None:
        self._name, self._stream = name, stream
        try:
            shape, fortran_order, self._dtype = npy_header(stream)
        except Exception as error:  # NumPy's own parser of what is Python's syntax: it raises whatever it meets
            raise self._damaged() from error
        if len(shape) != (2 if name == "embedding" else 1) or self._dtype.kind not in _KINDS[name] or fortran_order:
            raise InvalidDataset(f"The archive's column {name} is of another shape or type than DeepFace writes.")
        self.length, self._width = shape[0], shape[1:]
        self.item_bytes = self._dtype.itemsize * math.prod(self._width)
        if self.item_bytes > _ITEM_MAX_BYTES:
            raise DatasetTooLarge(f"The archive's column {name} is wider than any dataset's.")
        if stream.tell() + self.length * self.item_bytes != size:
            raise self._damaged()

    def read(self, count: int) -> Any:
        """The next `count` items: a list, or for the embeddings float32, (count, D)."""
        try:
            data = self._stream.read(count * self.item_bytes)
            # NumPy reads nothing from nothing: rows without any vector have a width of 0.
            shape = (count, *self._width)
            values = (
                np.frombuffer(data, self._dtype).reshape(shape) if self.item_bytes else np.zeros(shape, self._dtype)
            )
            if self._name == "embedding":
                with np.errstate(over="ignore"):
                    return values.astype(np.float32)
            return values.tolist()
        except (ValueError, *_UNREADABLE) as error:
            # ValueError: fewer bytes than announced, or no characters of Unicode.
            raise self._damaged() from error

    def _damaged(self) -> InvalidDataset:
        return InvalidDataset(f"The archive's column {self._name} is damaged.")


def _open(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (ValueError, *_UNREADABLE) as error:
        raise InvalidDataset("This is no zip archive, or a damaged one.") from error


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by column. Nothing is unpacked: what it would come to is told by its directory."""
    listed = archive.infolist()
    entries = {entry.filename.removesuffix(".npy"): entry for entry in listed}
    if len(listed) > _MAX_ENTRIES or len(entries) != len(listed):
        raise InvalidDataset("The archive holds more files than a dataset, or one twice.")
    missing = _KINDS.keys() - entries.keys()
    if missing:
        raise InvalidDataset(f"The archive lacks the columns {', '.join(sorted(missing))}.")
    unpacked, packed = sum(entry.file_size for entry in listed), sum(entry.compress_size for entry in listed)
    if unpacked > max(_RATIO_FROM_BYTES, packed * _MAX_RATIO):
        raise DatasetTooLarge(f"The archive would unpack to {unpacked} bytes.")
    return entries


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of an array in NumPy's format 1.0, which is what all columns of a dataset have.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    if npy_format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the format")
    shape, fortran_order, dtype = npy_format.read_array_header_1_0(stream, max_header_size=_HEADER_MAX_BYTES)
    if any(side < 0 for side in shape):
        raise ValueError("a negative length")
    return shape, fortran_order, dtype
