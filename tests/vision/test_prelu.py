"""The quicker graph of an embedder: the same embeddings, or none."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.vision import prelu
from app.vision.engine import load_engine
from app.vision.install import PackFacts, install_pack
from app.vision.packs import PackStore, file_sha256
from app.vision.prelu import write_quicker
from app.vision.runtime import open_session
from tests.packs import scrfd_folder

_DIMENSION = 16


def _embedder(path: Path, largest_slope: float, *, opset: int = 11) -> Path:
    """A small network with a PRelu: slopes from below zero to the largest."""
    rng = np.random.default_rng(2)
    weights = {
        "filters": rng.standard_normal((8, 3, 7, 7)) / 10,
        "slopes": np.linspace(-0.5, largest_slope, 8).reshape(8, 1, 1),
        "matrix": rng.standard_normal((8, _DIMENSION)),
    }
    nodes = [
        helper.make_node("Conv", ["input", "filters"], ["a"], strides=[7, 7]),
        helper.make_node("PRelu", ["a", "slopes"], ["b"], name="act"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "matrix"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", _DIMENSION])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def _operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load_model(path).graph.node}


def test_slopes_up_to_one_become_max_and_give_the_same(tmp_path: Path) -> None:
    original, target = _embedder(tmp_path / "a.onnx", 1.0), tmp_path / "b.onnx"
    assert write_quicker(original, target)
    assert _operators(target) == {"Conv", "Mul", "Max", "GlobalAveragePool", "Flatten", "MatMul"}
    chips = np.random.default_rng(3).standard_normal((5, 3, 112, 112)).astype(np.float32)
    mine, its = (open_session(path).run(None, {"input": chips})[0] for path in (original, target))
    assert np.abs(mine - its).max() <= 1e-6 * np.abs(mine).max()


def test_a_slope_above_one_keeps_the_graph(tmp_path: Path) -> None:
    assert not write_quicker(_embedder(tmp_path / "a.onnx", 1.5), tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_an_old_operator_set_keeps_the_graph(tmp_path: Path) -> None:
    assert not write_quicker(_embedder(tmp_path / "a.onnx", 0.5, opset=7), tmp_path / "b.onnx")


def test_a_graph_that_says_something_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = helper.make_node

    def wrong(operator: str, *arguments: object, **options: object) -> onnx.NodeProto:
        return make("Min" if operator == "Max" else operator, *arguments, **options)

    original = _embedder(tmp_path / "a.onnx", 0.5)
    monkeypatch.setattr(prelu.helper, "make_node", wrong)
    assert not write_quicker(original, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_an_installed_pack_has_the_quicker_graph_and_the_contract_of_the_original(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "detector.onnx").write_bytes((scrfd_folder() / "det_500m.onnx").read_bytes())
    digest = file_sha256(_embedder(source / "embedder.onnx", 0.25))
    pack = install_pack(
        tmp_path / "models",
        "mine",
        source=source,
        accept_license=True,
        facts=PackFacts(licence="for tests", threshold=0.6),
    )
    assert PackStore(tmp_path / "models").verify("mine").manifest == pack.manifest
    assert pack.manifest.contract.embedder_sha256 == digest != pack.manifest.files["embedder"].sha256
    assert "PRelu" not in _operators(pack.path("embedder"))
    assert sorted(path.name for path in pack.folder.iterdir()) == ["detector.onnx", "embedder.onnx", "manifest.json"]
    assert load_engine(pack).pack.manifest.dimension == _DIMENSION
