"""A dataset's bytes in, frames out: the part that runs in the process without rights."""

import os
from collections.abc import Iterator
from typing import BinaryIO

from app.datasets.frames import RowSender, write_frame
from app.datasets.labels import FolderLayout
from app.datasets.npz import NpzDataset
from app.datasets.pickles import pickled_rows, survey
from app.datasets.shapes import RawRow, raw_row
from app.errors import DatasetTooLarge, FacedexError, InvalidDataset

ZIP_MAGIC = b"PK"


def parse(file: BinaryIO, answers: BinaryIO, *, allow_numpy: bool, max_rows: int) -> None:
    """Send one frame about the pictures' folders, then rows, then `end`; or `error`, at any point."""
    try:
        _parse(file, answers, allow_numpy=allow_numpy, max_rows=max_rows)
    except FacedexError as error:
        write_frame(answers, {"error": error.code, "message": str(error)})
    except MemoryError:
        write_frame(
            answers, {"error": DatasetTooLarge.code, "message": "The dataset needs more memory than is allowed."}
        )
    except RecursionError:
        write_frame(answers, {"error": InvalidDataset.code, "message": "The dataset nests deeper than any."})


def _parse(file: BinaryIO, answers: BinaryIO, *, allow_numpy: bool, max_rows: int) -> None:
    layout, rows = _open(file, allow_numpy=allow_numpy, max_rows=max_rows)
    write_frame(answers, {"root": layout.root, "flat": layout.flat, "pictures": layout.pictures})
    sender, count, known = RowSender(answers), 0, 0
    for row in rows:
        count += 1
        known += row is not None
        if count > max_rows:
            raise DatasetTooLarge(f"The dataset has more than {max_rows} rows.")
        sender.send(row)
    sender.flush()
    if count and not known:
        raise InvalidDataset("No row of the dataset has a shape that DeepFace ever wrote.")
    write_frame(answers, {"end": count})


def _open(file: BinaryIO, *, allow_numpy: bool, max_rows: int) -> tuple[FolderLayout, Iterator[RawRow | None]]:
    if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
        archive = NpzDataset(file, max_rows=max_rows)
        return archive.layout(), archive.rows()
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    seen = survey(file, size, allow_numpy=allow_numpy)
    file.seek(0)
    rows = pickled_rows(file, size, seen.recalled, allow_numpy=allow_numpy)
    return seen.layout, map(raw_row, rows)
