"""The searchable form of a dataset: what is in it, what a search in it finds, and that damage to it is noticed."""

import os
import pickle
import stat
import subprocess
import sys

import numpy as np
import pytest

from app.config import PROJECT_ROOT
from app.datasets import compile as compiling
from app.datasets.compile import compile_dataset, read_failure
from app.datasets.compiled import CompiledDataset, load, read_record
from app.errors import ContractMismatch, DatasetNotWritten, InvalidDataset, UnsafeDataset
from app.vision.dlib_weights import WEIGHTS_SHA256
from tests import deepface_files as files

CONTRACT = f"dlib-chip-150-0.25:128:{WEIGHTS_SHA256[:16]}"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "compiled"


def compile_(source, folder) -> CompiledDataset:
    compile_dataset(source, folder, contract=CONTRACT, allow_numpy=False)
    found = load(folder)
    assert found is not None
    return found


def units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


def naive(persons: dict[str, np.ndarray], probe: np.ndarray, threshold: float, top_k: int):
    """What a search must find, written plainly."""
    found = []
    for label, vectors in persons.items():
        distances = 1 - units(vectors) @ probe
        within = distances[distances <= threshold]
        mean = float(within.mean()) if len(within) else None
        found.append((float(distances.min()), label, len(within), mean))
    return sorted(found)[:top_k]


@pytest.mark.parametrize("top_k", [1, 2, 5, 40, 100])
def test_a_search_finds_what_comparing_with_every_row_finds(tmp_path, folder, top_k):
    persons = {f"person {n}": files.vectors(1 + n % 9, seed=n) for n in range(40)}
    dataset = compile_(files.dataset(tmp_path / "d", persons), folder)
    probes = units(np.concatenate([files.vectors(3, seed=99), persons["person 8"][:2] + 0.2])).astype(np.float32)
    found = dataset.search(probes, threshold=0.95, top_k=top_k)
    assert len(found) == 5
    for probe, matches in zip(probes, found, strict=True):
        expected = naive(persons, probe, 0.95, top_k)
        assert [match.label for match in matches] == [label for _, label, _, _ in expected]
        for match, (distance, _, occurrences, mean) in zip(matches, expected, strict=True):
            assert match.min_distance == pytest.approx(distance, abs=1e-5)
            assert match.occurrences == occurrences
            assert match.mean_distance == (mean if mean is None else pytest.approx(mean, abs=1e-5))


def test_many_probes_in_a_large_gallery_are_searched_piece_by_piece(tmp_path, folder, monkeypatch):
    persons = {str(n): files.vectors(2, seed=n) for n in range(30)}
    dataset = compile_(files.dataset(tmp_path / "d", persons), folder)
    probes = units(files.vectors(11, seed=5)).astype(np.float32)
    at_once = dataset.search(probes, threshold=0.9, top_k=3)
    monkeypatch.setattr("app.datasets.compiled._SIMILARITIES_AT_ONCE", 1)
    one_by_one = dataset.search(probes, threshold=0.9, top_k=3)
    assert [[m.label for m in matches] for matches in one_by_one] == [[m.label for m in matches] for matches in at_once]


def test_a_distance_is_never_negative_and_persons_equally_near_come_by_label(tmp_path, folder):
    vector = files.vectors(1)
    dataset = compile_(
        files.dataset(
            tmp_path / "d", {label: vector * scale for label, scale in zip("dbac", (1, 2, 4, 8), strict=True)}
        ),
        folder,
    )
    (matches,) = dataset.search(units(vector).astype(np.float32), threshold=0.1, top_k=3)
    assert [match.label for match in matches] == ["a", "b", "c"]
    assert all(0 <= match.min_distance < 1e-6 for match in matches)


def test_rows_of_one_person_come_together_whatever_their_order_and_labels_are_any_text(tmp_path, folder):
    vectors = files.vectors(6)
    labels = ["Žiga", "李雷", "Žiga", "a b'\"{}%", "李雷", "Žiga"]
    rows = [files.row(f"x/{label}/{n}.jpg", vectors[n]) for n, label in enumerate(labels)]
    dataset = compile_(files.write_dataset(tmp_path / files.DLIB_NAME, rows), folder)
    assert dataset.labels == ("a b'\"{}%", "Žiga", "李雷")
    assert dataset.starts.tolist() == [0, 1, 4]
    assert np.allclose(dataset.vectors, units(vectors[[3, 0, 2, 5, 1, 4]]), atol=1e-6)
    assert not dataset.vectors.flags.writeable


def test_rows_that_cannot_be_used_are_counted_and_the_rest_is_searched(tmp_path, folder):
    vectors = files.vectors(3)
    rows = [
        files.row("a/1.jpg", vectors[0]),
        files.row("a/1.jpg", vectors[0]),  # the very same
        files.row("a/1.jpg", vectors[1]),  # another face of the same picture
        files.row("b/1.jpg", None),
        files.row("b/2.jpg", [0.0] * 128),
        files.row("b/3.jpg", [float("nan")] * 128),
        files.row("b/4.jpg", vectors[2][:64]),
    ]
    dataset = compile_(files.write_dataset(tmp_path / files.DLIB_NAME, rows), folder)
    assert (dataset.record.rows, dataset.record.persons, dataset.labels) == (2, 1, ("a",))
    assert dataset.record.skipped == {
        "no_vector": 1,
        "wrong_length": 1,
        "not_finite": 1,
        "zero_norm": 1,
        "duplicate": 1,
    }


def test_a_dataset_without_any_usable_row_is_refused(tmp_path, folder):
    for rows in ([], [files.row("a/1.jpg", None)]):
        source = files.write_dataset(tmp_path / files.DLIB_NAME, rows)
        with pytest.raises(InvalidDataset):
            compile_dataset(source, folder, contract=CONTRACT, allow_numpy=False)
        assert load(folder) is None
        assert read_failure(folder).code == "invalid_dataset"


def test_a_dataset_of_another_model_is_refused_before_it_is_read(tmp_path, folder):
    source = files.dataset(tmp_path / "d", {"a": files.vectors(1, dimension=512)}, files.ARCFACE_NAME)
    with pytest.raises(ContractMismatch, match="arcface"):
        compile_dataset(source, folder, contract=CONTRACT, allow_numpy=False)
    assert read_failure(folder).code == "contract_mismatch"


class _Payload:
    def __init__(self, trace) -> None:
        self._trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self._trace),)


def test_a_pickle_that_runs_code_leaves_no_trace_and_no_version(tmp_path, folder):
    source = tmp_path / files.DLIB_NAME
    source.write_bytes(pickle.dumps(_Payload(tmp_path / "trace")))
    with pytest.raises(UnsafeDataset):
        compile_dataset(source, folder, contract=CONTRACT, allow_numpy=False)
    assert not (tmp_path / "trace").exists()
    assert load(folder) is None


def test_embeddings_lie_in_a_private_folder_and_only_the_current_version_is_kept(tmp_path, folder):
    source = files.dataset(tmp_path / "d", {"a": files.vectors(2)})
    (folder).mkdir(mode=0o700)
    (folder / "0123.rows").write_bytes(b"of an attempt that was killed")
    first = compile_(source, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files.dataset(tmp_path / "d", {"b": files.vectors(3)})
    second = compile_(source, folder)
    assert (first.labels, second.labels) == (("a",), ("b",))
    assert first.vectors.shape == (2, 128)  # still mapped, though its file is gone
    assert len(list(folder.glob("*.npy"))) == 1
    assert list(folder.glob("*.rows")) == []


def test_a_file_that_was_only_touched_is_not_read_again(tmp_path, folder, monkeypatch):
    source = files.dataset(tmp_path / "d", {"a": files.vectors(2)})
    first = compile_(source, folder)
    os.utime(source, (1, 1))
    monkeypatch.setattr(compiling, "read_batches", None)
    again = compile_(source, folder)
    assert again.record.token == first.record.token
    assert again.record.source.mtime_ns == 1_000_000_000


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("which", ["*.npy", "[0-9a-f]*.json", "current.json"])
def test_a_damaged_version_is_noticed_and_made_anew(tmp_path, folder, which, damage):
    source = files.dataset(tmp_path / "d", {"a": files.vectors(2)})
    token = compile_(source, folder).record.token
    victim = next(file for file in folder.glob(which) if which == "current.json" or file.name != "current.json")
    damage(victim)
    assert load(folder) is None
    again = compile_(source, folder)
    assert again.record.token != token
    assert again.labels == ("a",)


def test_a_record_that_is_something_else_is_no_record(folder):
    folder.mkdir()
    for text in ("", "{}", "[1]", '{"format": 2}', "\x00" * 99):
        (folder / "current.json").write_text(text)
        assert read_record(folder) is None
        assert load(folder) is None


def test_a_folder_that_cannot_be_made_or_written_to_is_one_line_that_names_it(tmp_path):
    source = files.dataset(tmp_path / "d", {"a": files.vectors(1)})
    (tmp_path / "pkl").mkdir()
    (tmp_path / "pkl" / ".compiled").write_text("a file in its place")
    argv = [sys.executable, "-m", "app.datasets.compile", str(source), str(tmp_path / "pkl/.compiled/abc"), CONTRACT]
    done = subprocess.run(argv, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "The folder pkl/.compiled/abc cannot be made or written to: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "folder" / "lock").mkdir(parents=True)
    with pytest.raises(DatasetNotWritten, match="folder cannot be made or written to"):
        compile_(source, tmp_path / "folder")
