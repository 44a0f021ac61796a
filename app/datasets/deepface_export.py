"""Writes datasets that DeepFace reads."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from app.datasets.rows import DatasetRow


def deepface_file_name(model: str, detector: str, *, form: Literal["pkl", "npz"] = "pkl") -> str:
    """The name under which DeepFace looks for the dataset of a model and a detector, with its defaults for the rest."""
    raise NotImplementedError


def write_deepface(path: Path, rows: Iterable[DatasetRow], *, form: Literal["pkl", "npz"] = "pkl") -> int:
    """Write rows as DeepFace keeps them, whole or not at all; answers their number.

    Raises:
        DatasetNotWritten: the disk is full, or the folder refuses.
        ContractMismatch: the rows' vectors differ in length.
    """
    raise NotImplementedError
