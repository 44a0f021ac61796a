"""What a dataset holds, and what the reader says about it. Needs NumPy only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from app.vision.faces import Box, Float32Array

MIB: Final = 1024**2


@dataclass(frozen=True, slots=True, eq=False)
class DatasetRow:
    """One face of one picture.

    Attributes:
        identity: the picture's path as the dataset has it; another machine's, so no file of ours.
        label: the person, as `app.names.clean_name` keeps it.
        embedding: float32, (D,), as stored: not of unit length. None where the row has none that can be used.
        box: the face in its picture, in pixels; None where the dataset does not say.
        model: `DatasetInfo.model`.
        detector: `DatasetInfo.detector`.
    """

    identity: str
    label: str
    embedding: Float32Array | None
    box: Box | None
    model: str
    detector: str | None


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Some rows in the dataset's order, column by column.

    Attributes:
        identities, labels, boxes: N of each, as in `DatasetRow`.
        embeddings: float32, (N, D), as stored; zeros where `has_embedding` is false. While no vector was seen, D is 0.
        has_embedding: bool, (N,).
    """

    identities: list[str]
    labels: list[str]
    boxes: list[Box | None]
    embeddings: Float32Array
    has_embedding: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a dataset without reading its rows.

    Attributes:
        path: the file.
        sha256: of its bytes, in hexadecimal.
        model: DeepFace's model in lower case, e.g. `dlib`, `arcface`, `vgg-face`; `unknown` where the file's name does not say.
        detector: DeepFace's detector in lower case; None where the name does not say.
        form: `pickle` or `npz`.
        bytes: the file's size.
        signed: DeepFace's signature lies beside it. It is not checked: that takes the signer's key.
    """

    path: Path
    sha256: str
    model: str
    detector: str | None
    form: str
    bytes: int
    signed: bool = False


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much a file may cost before it is refused with `DatasetTooLarge`.

    Attributes:
        max_bytes: size of the file.
        max_rows: rows in it.
        memory_bytes: address space of the process that parses it.
        cpu_s: processor time of that process, and
        cpu_s_per_mib: as much more for each MiB of the file.
        silence_s: how long that process may say nothing.
    """

    max_bytes: int = 4 * 1024 * MIB
    max_rows: int = 10_000_000
    memory_bytes: int = 1024 * MIB
    cpu_s: float = 10.0
    cpu_s_per_mib: float = 0.3
    silence_s: float = 120.0


@dataclass(slots=True)
class ReadReport:
    """How many rows were read, and how many could not be used and why; filled while they are read.

    Attributes:
        rows: in the dataset, so far.
        delivered: handed out, with or without an embedding.
        embeddings: of those, with one.
        no_vector, wrong_length, not_finite, zero_norm: handed out without an embedding, for this reason.
        no_label, bad_identity, malformed: not handed out: no person in the path, a path or name that cannot be kept, a row of
            another shape.
        dimension: D; None while no vector was seen.
        expected: about how many rows there will be, known before the first: a picture with two faces may count once.
        flat: all pictures lie in one folder, so that the persons are those of the files' names.
    """

    rows: int = 0
    delivered: int = 0
    embeddings: int = 0
    no_vector: int = 0
    wrong_length: int = 0
    not_finite: int = 0
    zero_norm: int = 0
    no_label: int = 0
    bad_identity: int = 0
    malformed: int = 0
    dimension: int | None = None
    expected: int | None = None
    flat: bool = False

    @property
    def skipped(self) -> dict[str, int]:
        """Rows without a usable embedding or person, by reason; reasons without rows are left out."""
        counts = {name: getattr(self, name) for name in _REASONS}
        return {name: count for name, count in counts.items() if count}


_REASONS: Final = ("no_vector", "wrong_length", "not_finite", "zero_norm", "no_label", "bad_identity", "malformed")
