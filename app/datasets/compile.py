"""Makes the searchable form of a dataset: `python -m app.datasets.compile SOURCE FOLDER CONTRACT`.

A process of its own, so that neither the rows of a large dataset nor the time to read them are the web's. The dataset itself is
parsed in yet another one, which is confined (`app/datasets/deepface.py`).
"""

import argparse
import hashlib
import math
import sys
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from app.datasets.compiled import (
    RECORD_NAME,
    Record,
    Source,
    labels_path,
    load,
    read_labels,
    read_record,
    vectors_path,
    write_labels,
    write_record,
)
from app.datasets.contracts import fits_contract
from app.datasets.deepface import describe, read_batches
from app.datasets.locking import locked_within
from app.datasets.names import UNKNOWN_MODEL
from app.datasets.rows import DatasetInfo, ReadReport, RowBatch
from app.errors import (
    ContractMismatch,
    DatasetError,
    DatasetNotFound,
    DatasetNotWritten,
    FacedexError,
    InvalidDataset,
)
from app.vision.packs import file_sha256, write_text_atomically

FAILURE_NAME: Final = "failed.json"
_LOCK_NAME: Final = "lock"
_BLOCK_ROWS: Final = 65_536


class Failure(BaseModel):
    """The contents of `failed.json`: why a dataset cannot be used, until it or one of the circumstances changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    contract: str
    allow_numpy: bool
    code: str
    message: str


def read_failure(folder: Path) -> Failure | None:
    """What `failed.json` says; None where there is none."""
    try:
        return Failure.model_validate_json((folder / FAILURE_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def compile_dataset(source: Path, folder: Path, *, contract: str, allow_numpy: bool) -> Record:
    """Make the version of the dataset at `source` the current one of `folder`, unless it is. Processes take turns.

    Args:
        source: a dataset's file; it is only read.
        folder: made where it does not exist, mode 700: embeddings are personal.
        contract: id of the embedding contract of the probes to come.
        allow_numpy: as `read_batches`.

    Raises:
        ContractMismatch: the dataset is another model's; that and
        DatasetError: it cannot be used, is noted in `failed.json` as well.
        DatasetNotFound: it is gone.
        DatasetNotWritten: the disk is full, or the folder refuses.
    """
    with locked_within(folder / _LOCK_NAME, math.inf):
        before = _source(source)
        current = load(folder)
        if current is not None and current.record.source == before:
            return current.record
        try:
            return _compile(source, before, folder, current.record if current else None, contract, allow_numpy)
        except (ContractMismatch, DatasetError) as error:
            if not isinstance(error, DatasetNotFound | DatasetNotWritten):
                failure = Failure(
                    source=before, contract=contract, allow_numpy=allow_numpy, code=error.code, message=str(error)
                )
                write_text_atomically(folder / FAILURE_NAME, failure.model_dump_json(indent=1) + "\n")
            raise
        finally:
            _tidy(folder)


def withdraw(folder: Path, labels: Collection[str], *, wait_s: float) -> None:
    """Delete the current version where it names a person who was erased; processes that have mapped it then let go of it.

    Args:
        wait_s: how long to wait for a process that makes another one.

    Raises:
        DatasetNotWritten: the folder refuses, or that process takes longer.
    """
    if not folder.is_dir():
        return
    with locked_within(folder / _LOCK_NAME, wait_s):
        record = read_record(folder)
        if record is not None and not set(labels).isdisjoint(read_labels(folder, record.token)):
            (folder / RECORD_NAME).unlink(missing_ok=True)
        _tidy(folder)


def _compile(
    source: Path, before: Source, folder: Path, current: Record | None, contract: str, allow_numpy: bool
) -> Record:
    info = describe(source)
    if info.model == UNKNOWN_MODEL:
        raise ContractMismatch(
            "The file's name does not say which model made it: give it DeepFace's, such as representations_dlib.pkl."
        )
    if not fits_contract(info.model, contract):
        raise ContractMismatch(
            f"The dataset holds embeddings of DeepFace's model {info.model!r}, which cannot be compared with {contract}."
        )
    if current is not None and current.sha256 == info.sha256 and current.model == info.model:  # touched, or moved
        record = current.model_copy(update={"source": before})
    else:
        record = _write_version(info, before, folder, allow_numpy)
    if _source(source) != before:
        raise InvalidDataset("The dataset was changed while it was read.")
    write_record(folder, record)
    (folder / FAILURE_NAME).unlink(missing_ok=True)
    return record


def _source(path: Path) -> Source:
    try:
        return Source.of(path)
    except OSError as error:
        raise DatasetNotFound("The dataset is gone.") from error


def _write_version(info: DatasetInfo, source: Source, folder: Path, allow_numpy: bool) -> Record:
    report, rows, token = ReadReport(), _Rows(), uuid.uuid4().hex
    unsorted = folder / f"{token}.rows"
    try:
        with unsorted.open("wb") as stream:
            for batch in read_batches(info.path, allow_numpy=allow_numpy, report=report):
                rows.append(batch, stream)
        if not rows.persons_of_rows:
            raise InvalidDataset("The dataset has no row with a usable embedding.")
        shape = (len(rows.persons_of_rows), rows.dimension)
        order, labels, starts = rows.by_person()
        _write_sorted(np.memmap(unsorted, np.float32, "r", shape=shape), order, vectors_path(folder, token))
        write_labels(labels_path(folder, token), labels, starts)
    except OSError as error:
        raise DatasetNotWritten(f"The dataset's searchable form cannot be written: {error.strerror}.") from error
    return Record(
        source=source,
        sha256=info.sha256,
        model=info.model,
        dimension=rows.dimension,
        rows=len(order),
        persons=len(labels),
        skipped=report.skipped | ({"duplicate": rows.duplicates} if rows.duplicates else {}),
        token=token,
        vectors_sha256=file_sha256(vectors_path(folder, token)),
        labels_sha256=file_sha256(labels_path(folder, token)),
    )


@dataclass(slots=True)
class _Rows:
    """What is kept in memory of the rows that were written: whose they are."""

    dimension: int = 0
    duplicates: int = 0
    persons: dict[str, int] = field(default_factory=dict)
    persons_of_rows: list[int] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)

    def append(self, batch: RowBatch, stream: BinaryIO) -> None:
        """Write the batch's usable vectors at unit length; a row that was there already is left out, as migration does."""
        usable = [row for row in np.flatnonzero(batch.has_embedding).tolist() if self._is_new(batch, row)]
        if not usable:
            return
        vectors = batch.embeddings[usable].astype(np.float64)
        self.dimension = vectors.shape[1]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        stream.write(np.ascontiguousarray(vectors, dtype=np.float32).data)
        for row in usable:
            self.persons_of_rows.append(self.persons.setdefault(batch.labels[row], len(self.persons)))

    def by_person(self) -> tuple[npt.NDArray[np.int64], list[str], npt.NDArray[np.int64]]:
        """The rows' new order, the persons in order, and the first row of each."""
        labels = sorted(self.persons)
        rank = np.empty(len(labels), np.int64)
        rank[[self.persons[label] for label in labels]] = np.arange(len(labels))
        owners = rank[self.persons_of_rows]
        order = np.argsort(owners, kind="stable")
        return order, labels, np.searchsorted(owners[order], np.arange(len(labels)))

    def _is_new(self, batch: RowBatch, row: int) -> bool:
        digest = hashlib.blake2b(batch.embeddings[row].tobytes(), digest_size=16)
        digest.update(batch.identities[row].encode())
        before = len(self.seen)
        self.seen.add(digest.digest())
        self.duplicates += len(self.seen) == before
        return len(self.seen) > before


def _write_sorted(rows: npt.NDArray[np.float32], order: npt.NDArray[np.int64], path: Path) -> None:
    """Block by block: the whole would be in memory twice otherwise."""
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for first in range(0, len(order), _BLOCK_ROWS):
            stream.write(np.ascontiguousarray(rows[order[first : first + _BLOCK_ROWS]]).data)


def _tidy(folder: Path) -> None:
    """Remove the files of older versions and of attempts that were broken off; who has mapped them keeps them."""
    kept = {RECORD_NAME, FAILURE_NAME, _LOCK_NAME}
    if (record := read_record(folder)) is not None:
        kept |= {vectors_path(folder, record.token).name, labels_path(folder, record.token).name}
    for file in folder.iterdir():
        if file.name not in kept:
            file.unlink(missing_ok=True)


def main() -> int:
    """Compile one dataset; the exit code."""
    parser = argparse.ArgumentParser(prog="app.datasets.compile")
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("contract")
    parser.add_argument("--allow-numpy", action="store_true")
    given = parser.parse_args()
    try:
        compile_dataset(given.source, given.folder, contract=given.contract, allow_numpy=given.allow_numpy)
    except FacedexError as error:
        sys.stderr.write(f"facedex: dataset {given.source}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
