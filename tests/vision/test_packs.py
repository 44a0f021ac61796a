import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import InvalidPack, UnknownModel
from app.vision.packs import (
    Calibration,
    EmbeddingContract,
    FalseMatches,
    InstalledPack,
    Licence,
    PackFile,
    PackManifest,
    PackStore,
    file_sha256,
    read_manifest,
    write_manifest,
)

_ROOT = Path(__file__).resolve().parents[2]
_CALIBRATION = Calibration(threshold=0.4, slope=20, margin=0.02, basis="made up")


def _put_pack(models_dir: Path, name: str) -> InstalledPack:
    """A pack whose files hold a few bytes: the store never looks into them."""
    folder = models_dir / name
    folder.mkdir(parents=True)
    for file in ("det.onnx", "emb.onnx"):
        (folder / file).write_text(f"{name} {file}")
    files = {
        role: PackFile(name=file, sha256=file_sha256(folder / file))
        for role, file in (("detector", "det.onnx"), ("embedder", "emb.onnx"))
    }
    manifest = PackManifest(
        name=name,
        title="A pack",
        kind="insightface",
        files=files,
        weights_sha256=files["embedder"].sha256,
        dimension=16,
        alignment="arcface-112",
        calibration=_CALIBRATION,
        licence=Licence(name="MIT", non_commercial=False),
        source="a test",
        min_sharpness=0,
    )
    write_manifest(folder, manifest)
    return InstalledPack(folder, manifest)


def _change_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_contract_id_differs_where_any_part_differs() -> None:
    base = EmbeddingContract("a" * 64, "arcface-112", 512)
    others = [
        EmbeddingContract("b" * 64, "arcface-112", 512),
        EmbeddingContract("a" * 64, "dlib-chip", 512),
        EmbeddingContract("a" * 64, "arcface-112", 128),
    ]

    assert base.id == EmbeddingContract("a" * 64, "arcface-112", 512).id == f"arcface-112:512:{'a' * 16}"
    assert len({contract.id for contract in [base, *others]}) == 4


def test_confidence_is_fifty_at_the_threshold() -> None:
    assert _CALIBRATION.confidence(0.4) == pytest.approx(50)


@given(st.floats(0, 2), st.floats(0, 2))
def test_confidence_is_a_percentage_that_falls_with_the_distance(one: float, other: float) -> None:
    near, far = sorted((one, other))

    assert 0 <= _CALIBRATION.confidence(far) <= _CALIBRATION.confidence(near) <= 100


_POINTS = ((0.1, 0.5), (0.01, 0.3), (0.001, 0.2))
_MEASURED = _CALIBRATION.model_copy(update={"false_matches": FalseMatches(points=_POINTS, basis="made up")})


@pytest.mark.parametrize(
    ("calibration", "rate", "distance"),
    [
        (_MEASURED, 0.1, 0.4),  # never above the threshold
        (_MEASURED, 0.01, 0.3),
        (_MEASURED, 0.001, 0.2),
        (_MEASURED, 0.01 / 10**0.5, 0.25),
        (_MEASURED, 0.0001, 0.1),
        (_MEASURED, 0.00001, 0.0),
        (_CALIBRATION, 0.001, 0.4),
        (_CALIBRATION, 0.1, 0.4),
        (_CALIBRATION, 0.001 / math.e, 0.35),
    ],
)
def test_the_distance_at_a_rate_of_false_matches(calibration: Calibration, rate: float, distance: float) -> None:
    assert calibration.distance_at(rate) == pytest.approx(distance)


@given(st.floats(1e-9, 0.5), st.floats(1e-9, 0.5))
def test_rarer_false_matches_need_nearer_faces(one: float, other: float) -> None:
    rarer, commoner = sorted((one, other))
    for calibration in (_MEASURED, _CALIBRATION):
        assert calibration.distance_at(rarer) <= calibration.distance_at(commoner) <= calibration.threshold


@pytest.mark.parametrize(
    "points", [((0.1, 0.5),), ((0.1, 0.5), (0.1, 0.4)), ((0.1, 0.5), (0.01, 0.6)), ((1.1, 0.5), (0.1, 0.4))]
)
def test_rates_of_false_matches_fall_with_the_distance(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError):
        FalseMatches(points=points, basis="made up")


@pytest.mark.parametrize("distance", [-1e9, 1e9])
def test_confidence_of_absurd_distances_does_not_overflow(distance: float) -> None:
    assert Calibration(threshold=0.1, slope=10_000, margin=0, basis="x").confidence(distance) in (
        pytest.approx(0),
        pytest.approx(100),
    )


def test_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    pack = _put_pack(tmp_path, "one")

    assert read_manifest(pack.folder) == pack.manifest
    assert pack.path("embedder") == tmp_path / "one" / "emb.onnx"


_FILE = {"name": "det.onnx", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "../one"}, "name"),
        ({"name": "One"}, "name"),
        ({"kind": "tensorflow"}, "kind"),
        ({"format": 2}, "format"),
        ({"dimension": 0}, "dimension"),
        ({"dimension": "many"}, "dimension"),
        ({"metric": "euclidean"}, "metric"),
        ({"weights_sha256": "abc"}, "weights_sha256"),
        ({"unknown": 1}, "unknown"),
        ({"files": {"detector": _FILE}}, "files"),
        ({"files": {"detector": _FILE, "embedder": _FILE | {"name": "../../etc/passwd"}}}, "files.embedder.name"),
        ({"files": {"detector": _FILE, "embedder": _FILE | {"name": "/etc/passwd"}}}, "files.embedder.name"),
        ({"files": {"detector": _FILE, "embedder": _FILE | {"name": ".hidden"}}}, "files.embedder.name"),
        ({"files": {"detector": _FILE, "embedder": _FILE | {"name": "a\n"}}}, "files.embedder.name"),
        ({"calibration": {"threshold": -1, "slope": 1, "margin": 0, "basis": "x"}}, "calibration.threshold"),
        ({"calibration": {"threshold": 1, "slope": 0, "margin": 0, "basis": "x"}}, "calibration.slope"),
        ({"min_sharpness": float("nan")}, "min_sharpness"),
    ],
)
def test_malformed_manifests_are_refused_and_the_field_named(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    _put_pack(tmp_path, "one")
    _change_manifest(tmp_path / "one", **changes)

    with pytest.raises(InvalidPack, match=named) as caught:
        PackStore(tmp_path).get("one")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff\xfe", b" " * 70_000], ids=["empty", "{", "[]", "bytes", "long"]
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    _put_pack(tmp_path, "one")
    (tmp_path / "one" / "manifest.json").write_bytes(text)

    with pytest.raises(InvalidPack):
        PackStore(tmp_path).get("one")


def test_manifest_of_another_pack_is_refused(tmp_path: Path) -> None:
    _put_pack(tmp_path, "one").folder.rename(tmp_path / "two")

    with pytest.raises(InvalidPack, match="holds the pack one"):
        PackStore(tmp_path).get("two")


def test_store_lists_packs_and_nothing_else(tmp_path: Path) -> None:
    _put_pack(tmp_path, "two")
    _put_pack(tmp_path, "one")
    (tmp_path / ".staging-three").mkdir()
    (tmp_path / "without-manifest").mkdir()
    (tmp_path / "active").write_text("one")

    assert PackStore(tmp_path).names() == ["one", "two"]


def test_store_without_a_folder_has_no_packs(tmp_path: Path) -> None:
    assert PackStore(tmp_path / "missing").names() == []


@pytest.mark.parametrize("name", ["three", "", "..", "../one", "one/", "One", ".staging-one", "a" * 300, "\0"])
def test_unknown_names_are_refused_and_the_known_ones_listed(tmp_path: Path, name: str) -> None:
    _put_pack(tmp_path, "one")

    with pytest.raises(UnknownModel, match="installed: one"):
        PackStore(tmp_path).get(name)


def test_active_pack_is_the_setting_then_the_choice_then_the_default(tmp_path: Path) -> None:
    store = PackStore(tmp_path)
    for name in ("dlib", "one", "two"):
        _put_pack(tmp_path, name)

    assert store.active().manifest.name == "dlib"
    store.use("one")
    assert store.active().manifest.name == "one"
    assert store.active("two").manifest.name == "two"
    assert PackStore(tmp_path).active_name(None) == "one"


def test_a_pack_that_is_not_there_or_broken_cannot_be_chosen(tmp_path: Path) -> None:
    store = PackStore(tmp_path)
    (_put_pack(tmp_path, "one").folder / "det.onnx").write_text("changed")

    with pytest.raises(UnknownModel):
        store.use("two")
    with pytest.raises(InvalidPack):
        store.use("one")
    assert not (tmp_path / "active").exists()


def test_choice_of_a_pack_that_is_gone_is_unknown_not_silently_the_default(tmp_path: Path) -> None:
    _put_pack(tmp_path, "dlib")
    (tmp_path / "active").write_text("../gone\n")

    with pytest.raises(UnknownModel):
        PackStore(tmp_path).active()


def test_verify_finds_changed_missing_and_linked_files(tmp_path: Path) -> None:
    store = PackStore(tmp_path)
    path = _put_pack(tmp_path, "one").path("embedder")
    store.verify("one")
    good = path.read_bytes()

    path.write_bytes(good + b"!")
    with pytest.raises(InvalidPack, match=r"emb\.onnx is not the one"):
        store.verify("one")
    path.unlink()
    with pytest.raises(InvalidPack, match=r"emb\.onnx is missing"):
        store.verify("one")
    (tmp_path / "elsewhere").write_bytes(good)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidPack, match=r"emb\.onnx is missing"):
        store.verify("one")


@pytest.mark.parametrize("module", ["app.vision.packs", "app.vision.faces", "app.vision.catalog", "app.cli.models"])
def test_what_the_web_process_imports_loads_no_model_runtime(module: str) -> None:
    command = f"import sys, {module}; print(sorted({{'cv2', 'dlib', 'onnx', 'onnxruntime', 'insightface'}} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", command], cwd=_ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
