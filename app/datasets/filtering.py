"""Takes one person's rows out of a dataset; the file keeps its form, and everything else in it stays as it is.

Bounded memory, apart from the paths of the pictures. Nothing is unpickled: rows are read by `app/datasets/pickles.py`.
"""

import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from app.datasets.deepface import signature_of
from app.datasets.deepface_export import replacing, write_pickled_rows
from app.datasets.labels import FolderLayout, export_identity, label_of
from app.datasets.npz import NpzDataset, npy_header
from app.datasets.pickles import PickledArray, pickled_rows, survey
from app.datasets.rows import ReadLimits
from app.errors import DatasetNotWritten, InvalidDataset, InvalidName

_ZIP: Final = b"PK"
_PORTION_BYTES: Final = 4 * 1024**2


@dataclass(slots=True)
class _Selection:
    """Which rows go, and what the others' pictures are called afterwards.

    Attributes:
        kept: for each row, whether it stays.
        identities: the paths of those that stay; None where a row has none.
        labels: the persons of those.
    """

    kept: list[bool] = field(default_factory=list)
    identities: list[str | None] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)

    def add(self, identity: object, label: str | None, unwanted: Collection[str]) -> None:
        """The next row of the dataset."""
        self.kept.append(label not in unwanted)
        if label not in unwanted:
            self.identities.append(identity if isinstance(identity, str) else None)
            self.labels.append(label)

    @property
    def removed(self) -> int:
        return len(self.kept) - len(self.labels)

    def settle(self) -> bool:
        """Give the remaining pictures other paths where, among themselves, theirs would name other persons.

        Of `faces/Ana1.jpg` and `faces/Bojan1.jpg`, the folder is nobody's; once Bojan is gone, it would be all that is left.

        Returns:
            Whether paths have changed.
        """
        layout = FolderLayout()
        for identity in filter(None, self.identities):
            layout.see(identity)
        named = zip(self.identities, self.labels, strict=True)
        if all(_label(identity, layout.root) == label for identity, label in named):
            return False
        self.identities = [
            identity if identity is None or label is None else export_identity(label, _file_name(identity))
            for identity, label in zip(self.identities, self.labels, strict=True)
        ]
        return True


def remove_person(path: Path, labels: Collection[str], *, allow_numpy: bool) -> int:
    """Rewrite a dataset without the rows of a person, in one step; a signature beside it, which no longer fits, goes as well.

    Args:
        path: the file; a link is followed.
        labels: all that it may call the person, as `app.datasets.labels.label_of` gives them.
        allow_numpy: as `app.datasets.deepface.read_batches`.

    Returns:
        How many rows were taken out; the file is untouched where it is 0.

    Raises:
        InvalidDataset, UnsafeDataset, DatasetTooLarge: it cannot be read.
        DatasetNotWritten: the disk is full, or the folder refuses; the file is as before.
    """
    path = path.resolve()
    try:
        with path.open("rb") as file:
            is_archive = file.read(len(_ZIP)) == _ZIP
            file.seek(0)
            removed = _filter_npz(file, path, labels) if is_archive else _filter_pickle(file, path, labels, allow_numpy)
        if removed:
            signature_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise DatasetNotWritten(f"The dataset cannot be rewritten: {error.strerror or 'the disk refuses'}.") from error
    return removed


def _filter_pickle(file: BinaryIO, path: Path, labels: Collection[str], allow_numpy: bool) -> int:
    size = os.fstat(file.fileno()).st_size
    seen = survey(file, size, allow_numpy=allow_numpy)

    def rows() -> Iterator[Any]:
        file.seek(0)
        return pickled_rows(file, size, seen.recalled, allow_numpy=allow_numpy, exact=True)

    selection = _Selection()
    for row in rows():
        identity = _identity(row)
        selection.add(identity, _label(identity, seen.layout.root), labels)
    if selection.removed:
        renamed = selection.settle()
        staying = (row for row, stays in zip(rows(), selection.kept, strict=True) if stays)
        with replacing(path) as target:
            named = zip(staying, selection.identities, strict=True)
            write_pickled_rows(target, (_plain(row, identity if renamed else None) for row, identity in named))
    return selection.removed


def _identity(row: Any) -> Any:
    if isinstance(row, dict):
        return row.get("identity")
    return row[0] if isinstance(row, list | tuple) and row else None


def _label(identity: object, root: str | None) -> str | None:
    with suppress(InvalidName):
        return label_of(identity, root) if isinstance(identity, str) else None
    return None


def _file_name(identity: str) -> str:
    return identity.replace("\\", "/").rpartition("/")[2]


def _plain(row: Any, identity: str | None) -> Any:
    """The row as Python's values, each number in its own place; with another picture's path where one is given."""
    if isinstance(row, dict):
        values = {key: _plain_value(value) for key, value in row.items()}
        return values if identity is None else values | {"identity": identity}
    if not isinstance(row, list | tuple):
        return row
    items = _spread(row)
    if identity is not None:
        items[0] = identity
    return type(row)(items)


def _plain_value(value: Any) -> Any:
    if isinstance(value, PickledArray):
        return value.exact
    return type(value)(_spread(value)) if isinstance(value, list | tuple) else value


def _spread(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    items: list[Any] = []
    for value in values:
        if isinstance(value, np.ndarray):
            items += value.tolist()
        else:
            items.append(_plain_value(value))
    return items


def _filter_npz(file: BinaryIO, path: Path, labels: Collection[str]) -> int:
    dataset = NpzDataset(file, max_rows=ReadLimits().max_rows)
    root = dataset.layout().root
    selection = _Selection()
    for identity in dataset.identities():
        selection.add(identity, _label(identity, root), labels)
    if selection.removed:
        identities = [identity or "" for identity in selection.identities] if selection.settle() else None
        kept = np.array(selection.kept, dtype=np.bool_)
        with (
            zipfile.ZipFile(file) as source,
            replacing(path) as target,
            zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
        ):
            for entry in source.infolist():
                with source.open(entry) as before, archive.open(_like(entry), "w", force_zip64=True) as after:
                    if identities is not None and entry.filename.removesuffix(".npy") == "identity":
                        npy_format.write_array(after, np.array(identities, dtype=np.str_), (1, 0), allow_pickle=False)
                    else:
                        _copy_rows(before, after, kept)
    return selection.removed


def _like(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(entry.filename, entry.date_time)
    info.compress_type = entry.compress_type
    return info


def _copy_rows(before: IO[bytes], after: IO[bytes], kept: npt.NDArray[np.bool_]) -> None:
    """One column, in NumPy's format 1.0, without the rows that go."""
    try:
        shape, fortran_order, dtype = npy_header(before)
    except Exception as error:  # NumPy's own parser of what is Python's syntax: it raises whatever it meets
        raise InvalidDataset("The archive holds a column that cannot be read.") from error
    if fortran_order or dtype.hasobject or not shape or shape[0] != len(kept):
        raise InvalidDataset("The archive holds a column that is no dataset's.")
    header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False}
    npy_format.write_array_header_1_0(after, header | {"shape": (int(kept.sum()), *shape[1:])})
    item_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    if not item_bytes:
        return
    portion = max(1, _PORTION_BYTES // item_bytes)
    for start in range(0, len(kept), portion):
        stays = kept[start : start + portion]
        data = np.frombuffer(before.read(len(stays) * item_bytes), np.uint8)
        if data.size != len(stays) * item_bytes:
            raise InvalidDataset("The archive holds a truncated column.")
        after.write(data.reshape(len(stays), item_bytes)[stays].tobytes())
