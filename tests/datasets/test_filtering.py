"""One person out of a dataset: everything else is as it was, in every form that DeepFace has written."""

import hashlib
import pickle
import resource
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.datasets.deepface import read_rows
from app.datasets.erase import remove_in_process
from app.datasets.filtering import remove_person
from app.errors import DatasetError, DatasetNotWritten, DatasetUnavailable, InvalidDataset, UnsafeDataset
from tests.datasets.making import NAMES, as_dicts, dump, dump_npz, identities, npz_arrays, numpy_rows, vectors
from tests.datasets.making import with_old_numpy_names as old_names
from tests.deepface_files import real_datasets

SECOND = "Bojan"


def labels(path: Path, **options: Any) -> list[str]:
    return [row.label for row in read_rows(path, **options)]


def content(path: Path) -> list[Any]:
    """The rows as Python or NumPy, to be compared value by value."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        return [{name: column[n].tolist() for name, column in columns.items()} for n in range(len(columns["identity"]))]
    return [_listed(row) for row in pickle.loads(path.read_bytes())]


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.shape, value.tolist())
    if isinstance(value, list | tuple):
        return type(value)(_listed(item) for item in value)
    return {key: _listed(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("version", ["0.0.75", "0.0.84", "0.0.89", "0.0.93", "0.0.103"])
def test_a_real_dataset_is_the_original_without_those_rows(version: str, tmp_path: Path) -> None:
    (source,) = real_datasets()[f"deepface-{version}"].iterdir()
    copy = Path(shutil.copy(source, tmp_path))
    people = labels(source)
    person = sorted(set(people))[3]
    rows = content(source)
    assert len(rows) == len(people)
    assert remove_person(copy, [person], allow_numpy=False) == people.count(person) >= 7
    assert content(copy) == [row for row, label in zip(rows, people, strict=True) if label != person]
    assert labels(copy) == [label for label in people if label != person]


@pytest.mark.parametrize("form", ["old", "tuples", "dicts", "npz", "compressed", "numpy f4", "numpy f8", "numpy 1"])
def test_every_form_keeps_its_form_and_every_bit(form: str, tmp_path: Path) -> None:
    paths, found = identities(41), [list(map(float, vector)) for vector in vectors(41).astype(np.float64) / 3]
    if form in ("npz", "compressed"):
        file = dump_npz(tmp_path, npz_arrays(41), compressed=form == "compressed")
    elif form == "dicts":
        found[5] = None
        file = dump(tmp_path, as_dicts(paths, found))
    elif form.startswith("numpy"):
        file = dump(tmp_path, numpy_rows(41, "f8" if form == "numpy f8" else "f4"), NAMES["old"], 3)
        if form == "numpy 1":
            file.write_bytes(old_names(file.read_bytes()))
    else:
        rows = [[path, vector] for path, vector in zip(paths, found, strict=True)]
        if form == "tuples":
            rows = [(*row, n, 2 * n, 50, 60) for n, row in enumerate(rows)] + [(paths[0], None, 0, 0, 0, 0)]
        file = dump(tmp_path, rows, NAMES["old"])
    before, people = content(file), labels(file, allow_numpy=True)
    assert remove_person(file, [SECOND], allow_numpy=True) == people.count(SECOND) == 10
    assert content(file) == [row for row, label in zip(before, people, strict=True) if label != SECOND]
    assert SECOND.encode() not in file.read_bytes()


def test_rows_without_a_vector_go_too(tmp_path: Path) -> None:
    file = dump(tmp_path, as_dicts(["f/Ana/1.jpg", "f/Bojan/1.jpg", "f/Ana/2.jpg"], [[1.0, 2.0], None, [2.0, 1.0]]))
    assert remove_person(file, [SECOND], allow_numpy=False) == 1
    assert SECOND.encode() not in file.read_bytes()


def test_a_person_who_is_not_in_it_leaves_the_file_untouched(tmp_path: Path) -> None:
    file = dump(tmp_path, as_dicts(identities(9), vectors(9, 8)))
    before = (file.stat(), file.read_bytes())
    assert remove_person(file, ["Nobody"], allow_numpy=False) == 0
    assert (file.stat(), file.read_bytes()) == before


def test_the_last_person_leaves_an_empty_dataset(tmp_path: Path) -> None:
    file = dump(tmp_path, as_dicts(["f/Bojan/1.jpg", "f/Bojan/2.jpg"], vectors(2, 8)))
    assert remove_person(file, [SECOND], allow_numpy=False) == 2
    assert pickle.loads(file.read_bytes()) == []


@pytest.mark.parametrize(
    ("paths", "left"),
    [
        (["faces/Ana1.jpg", "faces/Ana2.jpg", "faces/Bojan1.jpg"], ["Ana", "Ana"]),
        (["f/Ana/party.jpg", "f/Ana/work.jpg", "f/Bojan/1.jpg"], ["Ana", "Ana"]),
        (["f/100%/a.jpg", "f/100%/b.jpg", "f/Bojan/1.jpg"], ["100%", "100%"]),
    ],
)
@pytest.mark.parametrize("form", ["pkl", "npz"])
def test_who_remains_keeps_the_name_where_the_folders_would_now_say_another(
    form: str, paths: list[str], left: list[str], tmp_path: Path
) -> None:
    if form == "pkl":
        file = dump(tmp_path, as_dicts(paths, vectors(3, 8)))
    else:
        arrays = npz_arrays(3)
        file = dump_npz(tmp_path, arrays | {"identity": np.array(paths, dtype=np.str_)})
    assert remove_person(file, [SECOND], allow_numpy=False) == 1
    assert labels(file) == left


def test_a_link_is_followed_and_mode_and_signature_are_seen_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = dump(tmp_path / "real", as_dicts(identities(8), vectors(8, 8)))
    real.chmod(0o640)
    signature = real.with_name(real.name + ".ldsa")
    signature.write_bytes(b"x")
    link = tmp_path / real.name
    link.symlink_to(real)
    assert remove_person(link, [SECOND], allow_numpy=False) == 2
    assert link.is_symlink()
    assert SECOND not in labels(real)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert not signature.exists()
    assert [path.name for path in real.parent.iterdir()] == [real.name]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x80\x04cos\nsystem\n.", UnsafeDataset),
        (b"nothing", InvalidDataset),
        (b"", InvalidDataset),
        (b"PK\x03\x04 nothing", InvalidDataset),
        (pickle.dumps(as_dicts(identities(9), vectors(9, 8)))[:-40], InvalidDataset),
    ],
)
def test_a_broken_dataset_is_left_as_it_is(data: bytes, error: type[DatasetError], tmp_path: Path) -> None:
    file = tmp_path / NAMES["new"]
    file.write_bytes(data)
    with pytest.raises(error):
        remove_person(file, [SECOND], allow_numpy=False)
    assert file.read_bytes() == data
    with pytest.raises(DatasetUnavailable):
        remove_in_process(file, [SECOND], allow_numpy=False, timeout_s=60)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_another_process_does_it_with_any_name(tmp_path: Path) -> None:
    name = 'Živa "Ž" O\'Neil 🌹'
    file = dump(tmp_path, as_dicts([f"f/{name}/1.jpg", "f/Ana/1.jpg", "f/Ana/2.jpg"], vectors(3, 8)))
    assert remove_in_process(file, [name], allow_numpy=False, timeout_s=60) == 1
    assert labels(file) == ["Ana", "Ana"]


def test_a_full_disk_is_told_and_the_file_stays(tmp_path: Path) -> None:
    file = dump(tmp_path, as_dicts(identities(400), vectors(400, 64)))
    digest = hashlib.sha256(file.read_bytes()).digest()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DatasetNotWritten):
            remove_person(file, [SECOND], allow_numpy=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert hashlib.sha256(file.read_bytes()).digest() == digest
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
