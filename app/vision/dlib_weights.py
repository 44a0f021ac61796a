"""Reads the weights of dlib's face recognition network out of the file that dlib serialised.

Source of the network: dlib `tools/python/src/face_recognition.cpp` (`anet_type`); of the file's form: dlib
`dlib/serialize.h` and `dlib/dnn/layers.h`. Weights: Davis King, CC0; the package `face_recognition_models` has them.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.errors import InvalidPack
from app.vision.faces import Float32Array

WEIGHTS_NAME = "dlib_face_recognition_resnet_model_v1.dat"
WEIGHTS_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
LANDMARKS_NAME = "shape_predictor_5_face_landmarks.dat"
LANDMARKS_SHA256 = "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888"

DIMENSION = 128
# Filters of each level and how many residual blocks follow its down block; the first level has no down block.
LEVELS = ((32, 3), (64, 3), (128, 2), (256, 2), (256, 0))
# Between two tensors lie only sizes and flags: 500 bytes are far more than any layer writes.
_MAX_GAP_BYTES = 500


def find_model_file(name: str) -> Path:
    """Where the installed package `face_recognition_models` keeps one of its files.

    The package itself is not imported: it needs `pkg_resources`, which newer setuptools no longer have.

    Raises:
        InvalidPack: the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise InvalidPack(f"The package face_recognition_models with its file {name} is not installed")


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """A convolution with dlib's affine layer folded in: weights float32 (out, in, h, w), bias float32 (out,)."""

    weights: Float32Array
    bias: Float32Array


class _DatReader:
    """Reads parameter tensors, in the file's order, out of a serialised dlib network."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def tensor(self, layer: bytes, size: int) -> Float32Array:
        """The parameters of the next layer, which has to be of that kind and of that size; float32, (size,).

        Raises:
            InvalidPack: the file goes on otherwise.
        """
        tag = bytes((1, len(layer))) + layer
        found = self._data.find(tag, self._at, self._at + _MAX_GAP_BYTES)
        if found < 0:
            raise InvalidPack("dlib's weights file does not hold the layers that are expected")
        self._at = found + len(tag)
        if layer == b"fc_2":
            self._expect_integers((DIMENSION, size // DIMENSION))
        dimensions = (size // DIMENSION, DIMENSION) if layer == b"fc_2" else (size, 1)
        self._expect_integers((2, *dimensions, 1, 1))
        if len(self._data) - self._at < size * 4:
            raise InvalidPack("dlib's weights file is truncated")
        values = np.frombuffer(self._data, "<f4", count=size, offset=self._at).astype(np.float32)
        self._at += size * 4
        if not np.isfinite(values).all():
            raise InvalidPack("dlib's weights file holds numbers that are not finite")
        return values

    def expect_end(self) -> None:
        """Raise InvalidPack where more than the last layer's closing bytes follow."""
        if len(self._data) - self._at > _MAX_GAP_BYTES:
            raise InvalidPack("dlib's weights file holds more layers than are expected")

    def _expect_integers(self, expected: tuple[int, ...]) -> None:
        if tuple(self._integer() for _ in expected) != expected:
            raise InvalidPack("dlib's weights file holds a layer of another size than expected")

    def _integer(self) -> int:
        # dlib/serialize.h: a byte with the sign (high bit) and the count of bytes (low nibble), then little-endian.
        control = self._data[self._at] if self._at < len(self._data) else 0
        count = control & 0x0F
        raw = self._data[self._at + 1 : self._at + 1 + count]
        if not 1 <= count <= 8 or len(raw) != count:
            raise InvalidPack("dlib's weights file is damaged")
        self._at += 1 + count
        value = int.from_bytes(raw, "little")
        return -value if control & 0x80 else value


def read_weights(data: bytes) -> tuple[list[Convolution], Float32Array]:
    """Parse the network's 29 convolutions and its final matrix, float32 (256, 128).

    Raises:
        InvalidPack: the bytes are not that network.
    """
    reader = _DatReader(data)
    shapes = [(32, 3, 7)] + [shape for level in range(len(LEVELS)) for shape in _level_shapes(level)]
    convolutions = [_read_convolution(reader, *shape) for shape in shapes]
    matrix = reader.tensor(b"fc_2", 256 * DIMENSION).reshape(256, DIMENSION)
    reader.expect_end()
    return convolutions, matrix


def _level_shapes(level: int) -> list[tuple[int, int, int]]:
    filters, residual_blocks = LEVELS[level]
    if level == 0:
        return [(filters, filters, 3)] * (2 * residual_blocks)
    return [(filters, LEVELS[level - 1][0], 3)] + [(filters, filters, 3)] * (2 * residual_blocks + 1)


def _read_convolution(reader: _DatReader, filters: int, channels: int, side: int) -> Convolution:
    count = filters * channels * side * side
    parameters = reader.tensor(b"con_4", count + filters)
    gamma, beta = np.split(reader.tensor(b"affine_", 2 * filters), 2)
    weights = parameters[:count].reshape(filters, channels, side, side)
    return Convolution(weights * gamma[:, None, None, None], parameters[count:] * gamma + beta)
