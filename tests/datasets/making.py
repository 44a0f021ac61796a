"""Synthetic datasets in every form that DeepFace has written, and ways to read them."""

import json
import pickle
from pathlib import Path

import numpy as np

from app.datasets.deepface import read_batches
from app.datasets.frames import LENGTHS_BYTES, parse_lengths
from app.datasets.parsing import parse

NAMES = {
    "old": "representations_arcface.pkl",
    "v2": "ds_arcface_retinaface_v2.pkl",
    "new": "ds_model_arcface_detector_retinaface_aligned_normalization_base_expand_0.pkl",
    "npz": "ds_model_arcface_detector_retinaface_aligned_normalization_base_expand_0.npz",
}
PERSONS = ("Ana", "Bojan", "Čedomir", "Đorđe")


def vectors(count: int, dimension: int = 512) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, dimension)).astype(np.float32)


def identities(count: int) -> list[str]:
    return [f"faces/{PERSONS[n % 4]}/{PERSONS[n % 4]}{n}.jpg" for n in range(count)]


def as_dicts(paths, embeddings, boxes=None) -> list[dict]:
    boxes = boxes or [(n, 2 * n, 100, 120) for n in range(len(paths))]
    return [
        {
            "identity": path,
            "hash": f"{n:040x}",
            "embedding": None if embedding is None else np.asarray(embedding).tolist(),
            "target_x": box[0],
            "target_y": box[1],
            "target_w": box[2],
            "target_h": box[3],
        }
        for n, (path, embedding, box) in enumerate(zip(paths, embeddings, boxes, strict=True))
    ]


def dump(folder: Path, rows, name: str = NAMES["new"], protocol: int = 4) -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(rows, protocol))
    return path


def numpy_rows(count: int, dtype: str = "f4") -> list:
    """The form before 0.0.51."""
    return [[path, vector.astype(dtype)] for path, vector in zip(identities(count), vectors(count), strict=True)]


def with_old_numpy_names(data: bytes) -> bytes:
    """A protocol 3 pickle of NumPy 2 as NumPy 1 wrote it."""
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def npz_arrays(count: int) -> dict[str, np.ndarray]:
    boxes = np.arange(4 * count, dtype=np.int64).reshape(count, 4) + 1
    return {
        "embedding": vectors(count).astype(np.float64),
        "has_embedding": np.ones(count, dtype=bool),
        "identity": np.array(identities(count), dtype=np.str_),
        "hash": np.array(["0" * 40] * count, dtype=np.str_),
    } | {f"target_{name}": boxes[:, n].copy() for n, name in enumerate("xywh")}


def dump_npz(folder: Path, arrays: dict[str, np.ndarray], *, compressed: bool = False) -> Path:
    path = folder / NAMES["npz"]
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def read_all(path: Path, **options) -> None:
    """Read a dataset through the process without rights."""
    for _ in read_batches(path, **options):
        pass


def parse_here(path: Path, *, allow_numpy: bool) -> dict:
    """The last thing that parsing says, done by this very process."""
    answers = path.with_name("answers")
    with path.open("rb") as file, answers.open("wb") as sink:
        parse(file, sink, allow_numpy=allow_numpy, max_rows=10**7)
    data = answers.read_bytes()
    answers.unlink()
    frame: dict = {}
    while data:
        text, raw = parse_lengths(data[:LENGTHS_BYTES])
        frame = json.loads(data[LENGTHS_BYTES : LENGTHS_BYTES + text])
        data = data[LENGTHS_BYTES + text + raw :]
    return frame
