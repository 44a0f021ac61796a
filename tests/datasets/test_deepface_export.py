"""Exported files, read as DeepFace reads them."""

import errno
import pickle
import pickletools
import resource
from pathlib import Path

import numpy as np
import pytest

from app.datasets import deepface_export
from app.datasets.deepface import find_dataset, read_rows
from app.datasets.deepface_export import write_deepface
from app.datasets.names import deepface_file_name, model_and_detector
from app.datasets.rows import DatasetRow
from app.errors import ContractMismatch, DatasetNotWritten
from app.vision.faces import Box
from tests.datasets.making import identities, vectors
from tests.pictures import SHARED

COLUMNS = {"identity", "hash", "embedding", "target_x", "target_y", "target_w", "target_h"}


def load_pickle_as_deepface(path: Path) -> list[dict]:
    """What DeepFace 0.0.86 to 0.0.101 does and checks. Source: `find` and `__load_representations` in its `recognition.py`."""
    with path.open("rb") as file:
        representations = pickle.load(file)
    assert isinstance(representations, list)
    assert all(isinstance(row, dict) for row in representations)
    return check_as_deepface(representations)


def load_npz_as_deepface(path: Path) -> list[dict]:
    """What DeepFace from 0.0.102 does and checks. Source: `__deserialize_npz` in its `recognition.py`."""
    with np.load(path, allow_pickle=False) as archive:
        assert (COLUMNS | {"has_embedding"}) - set(archive.files) == set()
        columns = {name: archive[name].tolist() for name in COLUMNS}
        there = archive["has_embedding"].tolist()
        assert archive["embedding"].dtype == np.float64
        assert archive["target_x"].dtype == np.int64
    columns["embedding"] = [
        vector if is_valid else None for vector, is_valid in zip(columns["embedding"], there, strict=True)
    ]
    return check_as_deepface([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def check_as_deepface(representations: list[dict]) -> list[dict]:
    """The keys that `find` requires of each row, and what it then does with their values."""
    for row in representations:
        assert COLUMNS - row.keys() == set()
        assert isinstance(row["identity"], str)  # compared with the paths of the folder's pictures
        assert isinstance(row["hash"], str)  # compared with the digest of a picture
        assert row["embedding"] is None or all(type(number) is float for number in row["embedding"])
        assert all(type(row[f"target_{side}"]) is int for side in "xywh")
    assert len({len(row["embedding"]) for row in representations if row["embedding"] is not None}) <= 1
    return representations


LOADERS = {"pkl": load_pickle_as_deepface, "npz": load_npz_as_deepface}


def rows(count: int) -> list[DatasetRow]:
    paths = identities(count)
    found = [
        DatasetRow(path, "", vector, Box(n, 1, 50, 60), "arcface", "retinaface")
        for n, (path, vector) in enumerate(zip(paths, vectors(count), strict=True))
    ]
    found[1] = DatasetRow(paths[1], "", None, None, "arcface", "retinaface")
    return found


@pytest.mark.parametrize("form", LOADERS)
def test_deepface_reads_what_was_written(tmp_path, form):
    path = tmp_path / deepface_file_name("ArcFace", "retinaface", form=form)
    assert write_deepface(path, iter(rows(50)), form=form) == 50
    read = LOADERS[form](path)
    assert [entry["identity"] for entry in read] == identities(50)
    assert read[1]["embedding"] is None
    assert [read[1][f"target_{side}"] for side in "xywh"] == [0, 0, 0, 0]
    assert [read[7][f"target_{side}"] for side in "xywh"] == [7, 1, 50, 60]
    assert np.array_equal(np.array(read[7]["embedding"], dtype=np.float32), vectors(50)[7])


@pytest.mark.parametrize("form", LOADERS)
def test_what_was_written_is_the_same_set_bit_for_bit(tmp_path, form):
    path = tmp_path / deepface_file_name("ArcFace", "retinaface", form=form)
    extremes = np.array([[1e-45, -0.0, 3.4e38, 1 / 3] * 128, vectors(1)[0]], dtype=np.float32)
    wanted = rows(40) + [
        DatasetRow(f"faces/Žana/{n}.jpg", "", vector, None, "", "") for n, vector in enumerate(extremes)
    ]
    write_deepface(path, wanted, form=form)
    read = list(read_rows(path))
    assert [(row.identity, row.box) for row in read] == [(row.identity, row.box) for row in wanted]
    assert [_bits(row) for row in read] == [_bits(row) for row in wanted]
    assert {(row.model, row.detector) for row in read} == {("arcface", "retinaface")}


def _bits(row: DatasetRow) -> bytes | None:
    return None if row.embedding is None else row.embedding.tobytes()


@pytest.mark.parametrize("form", LOADERS)
@pytest.mark.parametrize("version", ["0.0.75", "0.0.84", "0.0.89", "0.0.93", "0.0.103"])
def test_a_real_dataset_survives_the_way_there_and_back(tmp_path, version, form):
    folder = SHARED / "datasets" / f"deepface-{version}"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    wanted = list(read_rows(folder))
    path = tmp_path / deepface_file_name("Dlib", "dlib", form=form)
    write_deepface(path, wanted, form=form)
    assert len(LOADERS[form](path)) == len(wanted)
    read = list(read_rows(path))
    assert [(row.identity, row.label, row.box, _bits(row)) for row in read] == [
        (row.identity, row.label, row.box, _bits(row)) for row in wanted
    ]


@pytest.mark.parametrize("form", LOADERS)
def test_an_empty_gallery_is_an_empty_dataset(tmp_path, form):
    path = tmp_path / f"representations_dlib.{form}"
    assert write_deepface(path, [], form=form) == 0
    assert LOADERS[form](path) == []
    assert list(read_rows(path)) == []


def test_a_written_pickle_holds_no_instruction_that_could_run_anything(tmp_path):
    path = tmp_path / "representations_arcface.pkl"
    write_deepface(path, rows(3))
    names = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    known = "PROTO EMPTY_LIST EMPTY_DICT MARK BINUNICODE BINPUT BINFLOAT BININT1 NONE APPENDS SETITEMS APPEND STOP"
    assert names <= set(known.split())


def test_vectors_of_two_lengths_are_refused_and_nothing_is_replaced(tmp_path):
    path = tmp_path / "representations_arcface.pkl"
    path.write_bytes(b"before")
    mixed = [*rows(3), DatasetRow("faces/Ana/9.jpg", "", vectors(1, 128)[0], None, "", "")]
    for form in LOADERS:
        with pytest.raises(ContractMismatch):
            write_deepface(path, mixed, form=form)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", LOADERS)
def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path, form):
    path = tmp_path / f"representations_arcface.{form}"
    path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(DatasetNotWritten) as caught:
            write_deepface(path, rows(50), form=form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.__cause__.errno == errno.EFBIG
    assert str(tmp_path) not in str(caught.value)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_source_that_fails_leaves_nothing(tmp_path):
    def failing():
        yield from rows(3)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        write_deepface(tmp_path / "representations_arcface.pkl", failing())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetNotWritten):
        write_deepface(tmp_path / "file" / "representations_arcface.pkl", rows(3))


def test_a_new_file_is_private_and_a_replaced_one_keeps_its_mode(tmp_path):
    path = tmp_path / "new" / "representations_arcface.pkl"
    write_deepface(path, rows(3))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    write_deepface(path, rows(3))
    assert path.stat().st_mode & 0o777 == 0o640
    assert find_dataset(path.parent) == path


@pytest.mark.parametrize("model", ["VGG-Face", "Facenet512", "Dlib", "ArcFace", "Buffalo_L", "GhostFaceNet"])
def test_names_are_those_that_deepface_looks_for(model):
    name = deepface_file_name(model, "retinaface")
    assert (
        name == f"ds_model_{model.replace('-', '').lower()}_detector_retinaface_aligned_normalization_base_expand_0.pkl"
    )
    assert model_and_detector(name) == (model.lower(), "retinaface")


def test_the_new_file_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(
        deepface_export.os, "fsync", lambda handle: order.append(Path(f"/proc/self/fd/{handle}").readlink())
    )
    path = tmp_path / "representations_arcface.pkl"
    write_deepface(path, rows(3))
    assert [entry.suffix for entry in order] == [".part", ""]
    assert order[1] == tmp_path
