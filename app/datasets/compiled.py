"""A dataset in the form it is searched in: one memory-mapped matrix of unit vectors, the rows of a person side by side.

The pages of the matrix are shared by all processes that map it. A folder holds the files of one version, whose names are
never used again, and a record (`current.json`) that is replaced in one step when a new version is whole: who has mapped an
older one keeps it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.vision.faces import Float32Array
from app.vision.packs import Sha256, file_sha256, write_text_atomically

RECORD_NAME: Final = "current.json"
# A product of this many similarities at a time: some dozen MiB beside the matrix itself.
_SIMILARITIES_AT_ONCE: Final = 8 * 1024**2


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Frozen):
    """A file as far as it can be told apart without reading it; `ctime_ns` changes with every write and every rename."""

    path: str
    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Source":
        """The file at `path`.

        Raises:
            OSError: there is none.
        """
        found = path.stat()
        return cls(
            path=str(path),
            bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
            inode=found.st_ino,
        )


class Record(_Frozen):
    """The contents of `current.json`.

    Attributes:
        source: what the version was made from, and `sha256`: its digest.
        model: DeepFace's model, `DatasetInfo.model`.
        dimension, rows, persons: shape of the matrix, and how many persons its rows belong to.
        skipped: rows of the dataset that could not be used, by reason; `duplicate` are those that it has twice.
        token: the version's files are `<token>.npy` and `<token>.json`.
        vectors_sha256, labels_sha256: their digests.
    """

    format: Literal[1] = 1
    source: Source
    sha256: Sha256
    model: str
    dimension: int = Field(ge=1)
    rows: int = Field(ge=1)
    persons: int = Field(ge=1)
    skipped: dict[str, int]
    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    vectors_sha256: Sha256
    labels_sha256: Sha256


class Labels(_Frozen):
    """The contents of `<token>.json`: the persons in order, and the first row of each."""

    labels: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PersonMatch:
    """A person, as near to a probe as the nearest of their templates.

    Attributes:
        min_distance: cosine distance (0 to 2) of the nearest template.
        occurrences: how many of the person's templates are within the threshold.
        mean_distance: of those templates; None where there are none.
    """

    label: str
    min_distance: float
    occurrences: int
    mean_distance: float | None


@dataclass(frozen=True, slots=True, eq=False)
class CompiledDataset:
    """A dataset that can be searched.

    Attributes:
        record: where it comes from.
        vectors: float32, (N, D), unit length, read-only and memory-mapped; rows of one person side by side.
        labels: the persons in the order of their rows.
        starts: int64, (P,), the first row of each person; rising.
    """

    record: Record
    vectors: Float32Array
    labels: tuple[str, ...]
    starts: npt.NDArray[np.int64]

    def search(self, probes: Float32Array, *, threshold: float, top_k: int) -> list[tuple[PersonMatch, ...]]:
        """The nearest persons for every probe: exact, one product of the matrix and the probes.

        Args:
            probes: float32, (F, D), unit length.
            threshold: largest cosine distance that counts as the same person's.
            top_k: persons to return per probe.

        Returns:
            One entry per probe, nearest first; persons who are equally near in the order of their labels.
        """
        found: list[tuple[PersonMatch, ...]] = []
        step = max(1, _SIMILARITIES_AT_ONCE // len(self.vectors))
        for first in range(0, len(probes), step):
            distances = np.float32(1.0) - probes[first : first + step] @ self.vectors.T
            np.maximum(distances, 0.0, out=distances)
            nearest = np.minimum.reduceat(distances, self.starts, axis=1)
            found += [self._matches(row, mins, threshold, top_k) for row, mins in zip(distances, nearest, strict=True)]
        return found

    def _matches(
        self, distances: Float32Array, nearest: Float32Array, threshold: float, top_k: int
    ) -> tuple[PersonMatch, ...]:
        """`distances`: (N,), of all rows; `nearest`: (P,), the smallest of each person."""
        best = np.arange(len(nearest))
        if top_k < len(nearest):
            # All who are as near as the last one kept: which of those are left out must not depend on the partition.
            best = np.flatnonzero(nearest <= np.partition(nearest, top_k - 1)[top_k - 1])
        best = best[np.argsort(nearest[best], kind="stable")][:top_k]
        return tuple(self._match(int(person), distances, threshold) for person in best)

    def _match(self, person: int, distances: Float32Array, threshold: float) -> PersonMatch:
        end = self.starts[person + 1] if person + 1 < len(self.starts) else len(distances)
        own = distances[self.starts[person] : end]
        within = own[own <= threshold]
        return PersonMatch(
            label=self.labels[person],
            min_distance=float(own.min()),
            occurrences=len(within),
            mean_distance=float(within.mean(dtype=np.float64)) if len(within) else None,
        )


def read_record(folder: Path) -> Record | None:
    """The record of the current version; None where there is none, or a damaged one."""
    try:
        return Record.model_validate_json((folder / RECORD_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(folder: Path, record: Record) -> None:
    """Make a version the current one, in one step."""
    write_text_atomically(folder / RECORD_NAME, record.model_dump_json(indent=1) + "\n")


def load(folder: Path) -> CompiledDataset | None:
    """Map the current version, once its files are found to be those that were written.

    Returns:
        None where there is none, or where a file is missing or damaged.
    """
    record = read_record(folder)
    while record is not None:
        if (found := _load_version(folder, record)) is not None:
            return found
        # A newer version may have come, and the files of this one gone, in between.
        newer = read_record(folder)
        if newer == record:
            return None
        record = newer
    return None


def _load_version(folder: Path, record: Record) -> CompiledDataset | None:
    vectors_file, labels_file = vectors_path(folder, record.token), labels_path(folder, record.token)
    try:
        if file_sha256(vectors_file) != record.vectors_sha256 or file_sha256(labels_file) != record.labels_sha256:
            return None
        vectors = np.load(vectors_file, mmap_mode="r", allow_pickle=False)
        labels = Labels.model_validate_json(labels_file.read_bytes())
    except (OSError, ValueError):
        return None
    return CompiledDataset(
        record=record,
        vectors=vectors.view(np.ndarray),
        labels=labels.labels,
        starts=np.array(labels.starts, dtype=np.int64),
    )


def write_labels(path: Path, labels: list[str], starts: npt.NDArray[np.int64]) -> None:
    """Write `<token>.json`."""
    path.write_text(json.dumps({"labels": labels, "starts": starts.tolist()}, ensure_ascii=False), encoding="utf-8")


def read_labels(folder: Path, token: str) -> tuple[str, ...]:
    """The persons of a version; none where its file is gone or damaged: then nobody can map it either."""
    try:
        return Labels.model_validate_json(labels_path(folder, token).read_bytes()).labels
    except (OSError, ValidationError):
        return ()


def vectors_path(folder: Path, token: str) -> Path:
    """The version's matrix."""
    return folder / f"{token}.npy"


def labels_path(folder: Path, token: str) -> Path:
    """The version's persons."""
    return folder / f"{token}.json"
