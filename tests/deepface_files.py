"""Datasets for tests, written as DeepFace 0.0.93 writes them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import SHARED

DLIB_NAME = "ds_model_dlib_detector_dlib_aligned_normalization_base_expand_0.pkl"
ARCFACE_NAME = DLIB_NAME.replace("model_dlib", "model_arcface")


def real_datasets() -> dict[str, Path]:
    """The datasets of five versions of DeepFace, by version; skips without them."""
    folder = SHARED / "datasets"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    return {entry.name: entry for entry in sorted(folder.iterdir())}


def row(identity: str, vector: object) -> dict[str, object]:
    values = None if vector is None else [float(value) for value in vector]
    box = {"target_x": 1, "target_y": 2, "target_w": 30, "target_h": 40}
    return {"identity": identity, "hash": "0", "embedding": values, **box}


def write_dataset(path: Path, rows: list[dict[str, object]]) -> Path:
    """Replace the file in one step, as somebody careful would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(pickle.dumps(rows))
    return part.replace(path)


def dataset(folder: Path, persons: dict[str, np.ndarray], name: str = DLIB_NAME) -> Path:
    """One picture a vector: `persons` has float, (N, D), by label."""
    rows = [
        row(f"gallery/{label}/{number}.jpg", vector)
        for label, vectors in persons.items()
        for number, vector in enumerate(vectors)
    ]
    return write_dataset(folder / name, rows)


def vectors(count: int, seed: int = 0, dimension: int = 128) -> np.ndarray:
    """Vectors that are not of unit length, as DeepFace keeps them: float32, (count, dimension)."""
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(count, dimension)) * generator.uniform(0.5, 3, size=(count, 1))).astype(np.float32)
