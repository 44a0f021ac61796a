"""The ONNX graph against dlib's own runtime, the reader against damaged weights, the pack's preparation."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import dlib
import numpy as np
import pytest

from app.errors import InvalidPack
from app.vision import dlib_onnx
from app.vision.dlib_onnx import CHIP_PADDING, CHIP_SIZE_PX, prepare_dlib_pack
from app.vision.dlib_weights import LANDMARKS_NAME, WEIGHTS_NAME, WEIGHTS_SHA256, find_model_file, read_weights
from app.vision.packs import InstalledPack, PackStore, file_sha256
from app.vision.runtime import open_session
from tests.pictures import group_photo, lfw10


def _chips(*paths: Path) -> np.ndarray:
    """Chips of all faces that dlib finds, cut by dlib alone; uint8, (N, 150, 150, 3), RGB."""
    detector, predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(find_model_file(LANDMARKS_NAME)))
    chips = []
    for path in paths:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        shapes = [predictor(image, box) for box in detector(image, 1)]
        chips += [dlib.get_face_chip(image, shape, CHIP_SIZE_PX, CHIP_PADDING) for shape in shapes]
    return np.stack(chips)


def _dlib_embeddings(chips: np.ndarray) -> np.ndarray:
    network = dlib.face_recognition_model_v1(str(find_model_file(WEIGHTS_NAME)))
    return np.array([network.compute_face_descriptor(chip) for chip in chips])


def _onnx_embeddings(pack: InstalledPack, chips: np.ndarray) -> np.ndarray:
    return open_session(pack.path("embedder")).run(None, {"chips": chips})[0]


def test_graph_equals_dlib_on_every_face_of_the_group_picture(dlib_pack: InstalledPack) -> None:
    chips = _chips(group_photo())

    assert len(chips) == 6
    np.testing.assert_allclose(_onnx_embeddings(dlib_pack, chips), _dlib_embeddings(chips), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_graph_equals_dlib_on_all_hundred_pictures(dlib_pack: InstalledPack) -> None:
    chips = _chips(*(path for paths in lfw10().values() for path in paths))

    assert len(chips) >= 100
    np.testing.assert_allclose(_onnx_embeddings(dlib_pack, chips), _dlib_embeddings(chips), rtol=0, atol=1e-4)


def test_faces_of_a_batch_do_not_influence_each_other(dlib_pack: InstalledPack) -> None:
    chips = _chips(group_photo())

    alone = np.concatenate([_onnx_embeddings(dlib_pack, chip[None]) for chip in chips])

    np.testing.assert_allclose(_onnx_embeddings(dlib_pack, chips), alone, rtol=0, atol=1e-5)


def _weights() -> bytes:
    return find_model_file(WEIGHTS_NAME).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-200_000],
        lambda data: data.replace(b"con_4", b"con_5", 1),
        lambda data: data.replace(b"affine_", b"affinex", 1),
        lambda data: data.replace(b"\x02\x80\x12", b"\x02\x81\x12", 1),
        lambda data: data[:1000] + b"\0\0\xc0\x7f" * 8 + data[1032:],
        lambda data: data + bytes(1000),
    ],
    ids=["empty", "half", "no-matrix", "other-layer", "no-affine", "other-size", "not-a-number", "more"],
)
def test_reader_refuses_other_files(damage) -> None:
    with pytest.raises(InvalidPack):
        read_weights(damage(_weights()))


def test_contract_is_that_of_the_weights_not_of_the_graph_file(dlib_pack: InstalledPack) -> None:
    contract = dlib_pack.manifest.contract

    assert contract.embedder_sha256 == WEIGHTS_SHA256 == file_sha256(find_model_file(WEIGHTS_NAME))
    assert contract.id == f"dlib-chip-150-0.25:128:{WEIGHTS_SHA256[:16]}"


def test_preparing_again_keeps_the_files(tmp_path: Path) -> None:
    before = prepare_dlib_pack(tmp_path).path("embedder").stat()

    again = prepare_dlib_pack(tmp_path).path("embedder").stat()

    assert (again.st_ino, again.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("name", ["embedder.onnx", LANDMARKS_NAME, "manifest.json"])
def test_preparing_again_mends_a_damaged_pack(tmp_path: Path, name: str) -> None:
    pack = prepare_dlib_pack(tmp_path)
    (pack.folder / name).write_bytes(b"damaged")

    prepare_dlib_pack(tmp_path)

    assert PackStore(tmp_path).verify("dlib").manifest == pack.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock-dlib", "dlib"]


def test_what_a_killed_preparation_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".staging-dlib").mkdir()
    (tmp_path / ".staging-dlib" / "embedder.onnx").write_bytes(b"half a graph")

    prepare_dlib_pack(tmp_path)

    assert not (tmp_path / ".staging-dlib").exists()
    assert PackStore(tmp_path).verify("dlib")


def test_two_processes_prepare_at_once(tmp_path: Path) -> None:
    command = (
        "import sys, pathlib; from app.vision.dlib_onnx import prepare_dlib_pack as p; p(pathlib.Path(sys.argv[1]))"
    )
    root = Path(__file__).resolve().parents[2]

    started = [
        subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], cwd=root, env={**os.environ}) for _ in range(2)
    ]

    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert PackStore(tmp_path).verify("dlib")


def test_a_graph_that_is_not_dlibs_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_onnx, "_MEAN_RGB", (0.0, 0.0, 0.0))

    with pytest.raises(InvalidPack, match="dlib's own output"):
        prepare_dlib_pack(tmp_path)

    assert PackStore(tmp_path).names() == []


def test_other_weights_than_the_pinned_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_onnx, "WEIGHTS_SHA256", "0" * 64)

    with pytest.raises(InvalidPack, match=WEIGHTS_NAME):
        prepare_dlib_pack(tmp_path)
