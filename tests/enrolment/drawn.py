"""Pictures that say which faces are on them, and the worker pool's interface over them."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.embedder.client import EmbedderClient
from app.vision.faces import Analysis, Box, Face, FaceQuality, Float32Array
from tests.db_server import contract, normalised

DIMENSION = 8
CONTRACT = contract(DIMENSION)
THRESHOLD = 0.07
"""That of the pack `dlib`."""


class DrawnPool(EmbedderClient):
    """Sees on a picture of `draw` what was drawn."""

    def __init__(self) -> None:
        super().__init__("unix:/nowhere")

    def analyze(self, image: bytes, **_others: Any) -> Analysis:
        drawn = json.loads(image)
        faces = tuple(_face(np.array(vector, np.float32), size) for vector, size in drawn["faces"])
        return Analysis(1000, 1000, faces, "dlib", drawn["contract"])


def draw(*faces: Float32Array, sizes: Sequence[int] = (), salt: int = 0, contract: str = CONTRACT) -> bytes:
    """A picture of these faces, float32, (D,), at unit length; `salt` makes another file of the same photo."""
    sizes = sizes or [200 - n for n in range(len(faces))]
    listed = [(face.tolist(), size) for face, size in zip(faces, sizes, strict=True)]
    return json.dumps({"faces": listed, "salt": salt, "contract": contract}).encode()


def axis(n: int) -> Float32Array:
    """The n-th of eight faces that have nothing in common."""
    return np.eye(DIMENSION, dtype=np.float32)[n]


def between(one: Float32Array, other: Float32Array, distance: float) -> Float32Array:
    """The face at that cosine distance from `one`, on the way to `other`."""
    away = other - (one @ other) * one
    away = away / np.linalg.norm(away)
    cosine = 1.0 - distance
    return normalised((cosine * one + np.sqrt(1.0 - cosine**2) * away)[None])[0]


def _face(vector: Float32Array, size: int) -> Face:
    return Face(Box(0, 0, size, size), 0.9, np.zeros((5, 2), np.float32), FaceQuality(size, 1e6), vector)
