"""What the reader makes of honest datasets, and of what is merely odd about some."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from app.datasets.deepface import describe, find_dataset, read_batches, read_rows
from app.datasets.rows import ReadLimits, ReadReport
from app.errors import AmbiguousDataset, DatasetNotFound, DatasetTooLarge, InvalidDataset, UnsafeDataset
from app.vision.faces import Box
from tests.datasets.making import (
    NAMES,
    PERSONS,
    as_dicts,
    dump,
    dump_npz,
    identities,
    npz_arrays,
    numpy_rows,
    vectors,
    with_old_numpy_names,
)
from tests.pictures import SHARED, lfw10

REAL = {
    "0.0.75": (70, None),
    "0.0.84": (73, None),
    "0.0.89": (73, "dlib"),
    "0.0.93": (73, "dlib"),
    "0.0.103": (73, "dlib"),
}


@pytest.mark.parametrize("version", REAL)
def test_a_real_dataset_is_read_whole(version):
    folder = SHARED / "datasets" / f"deepface-{version}"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    count, detector = REAL[version]
    report = ReadReport()
    rows = list(read_rows(folder, report=report))
    assert (len(rows), report.embeddings, report.skipped, report.flat) == (count, count, {}, False)
    assert {row.label for row in rows} == set(lfw10())
    assert {(row.model, row.detector) for row in rows} == {("dlib", detector)}
    assert all(row.embedding.shape == (128,) and row.embedding.dtype == np.float32 for row in rows)
    assert all((row.box is None) == (version == "0.0.75") for row in rows)


def test_real_datasets_hold_the_numbers_that_their_own_libraries_read():
    """The files of the package's owner may be unpickled; all others are not."""
    folder = SHARED / "datasets"
    if not folder.is_dir():
        pytest.skip("needs ../shared/datasets")
    path = find_dataset(folder / "deepface-0.0.93")
    known = pickle.loads(path.read_bytes())
    for row, entry in zip(read_rows(path), known, strict=True):
        assert row.identity == entry["identity"]
        assert np.array_equal(row.embedding, np.array(entry["embedding"], dtype=np.float32))
        assert row.box == Box(entry["target_x"], entry["target_y"], entry["target_w"], entry["target_h"])
    archive = np.load(find_dataset(folder / "deepface-0.0.103"), allow_pickle=False)
    rows = list(read_rows(folder / "deepface-0.0.103"))
    assert [row.identity for row in rows] == archive["identity"].tolist()
    assert np.array_equal([row.embedding for row in rows], archive["embedding"].astype(np.float32))


def _forms():
    paths, embeddings = identities(10), vectors(10)
    lists = embeddings.tolist()
    yield "before 0.0.80", NAMES["old"], [[path, vector] for path, vector in zip(paths, lists, strict=True)], False
    boxed = [[path, vector, n, 2 * n, 100, 120] for n, (path, vector) in enumerate(zip(paths, lists, strict=True))]
    yield "0.0.80", NAMES["old"], boxed, True
    yield "0.0.85", NAMES["old"], [tuple(row) for row in boxed], True
    yield "0.0.86", NAMES["v2"], as_dicts(paths, embeddings), True
    yield "0.0.90", NAMES["new"], as_dicts(paths, embeddings), True


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("name", "rows", "boxed"), [pytest.param(*form[1:], id=form[0]) for form in _forms()])
def test_every_form_gives_the_same_rows(tmp_path, name, rows, boxed, protocol):
    found = list(read_rows(dump(tmp_path, rows, name, protocol)))
    assert [row.identity for row in found] == identities(10)
    assert [row.label for row in found] == [PERSONS[n % 4] for n in range(10)]
    assert np.array_equal([row.embedding for row in found], vectors(10))
    assert [row.box for row in found] == [Box(n, 2 * n, 100, 120) if boxed else None for n in range(10)]
    assert {row.model for row in found} == {"arcface"}


@pytest.mark.parametrize("compressed", [False, True])
def test_an_npz_archive_gives_its_rows(tmp_path, compressed):
    arrays = npz_arrays(3000)
    arrays["has_embedding"][5] = False
    found = list(read_rows(dump_npz(tmp_path, arrays, compressed=compressed)))
    assert [row.identity for row in found] == identities(3000)
    assert found[5].embedding is None
    assert all(
        np.array_equal(row.embedding, v) for n, (row, v) in enumerate(zip(found, vectors(3000), strict=True)) if n != 5
    )
    assert found[2].box == Box(9, 10, 11, 12)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_numpy_vectors_are_read_where_they_are_allowed(tmp_path, protocol, dtype):
    path = dump(tmp_path, numpy_rows(10, dtype), NAMES["old"], protocol)
    path.write_bytes(with_old_numpy_names(path.read_bytes()))
    found = list(read_rows(path, allow_numpy=True))
    assert np.array_equal([row.embedding for row in found], vectors(10).astype(dtype).astype(np.float32))
    with pytest.raises(UnsafeDataset):
        next(read_rows(path))


def test_a_signed_dataset_is_read_without_its_signature(tmp_path):
    path = dump(tmp_path, as_dicts(identities(3), vectors(3)))
    path.with_name(path.name + ".ldsa").write_text("(1, 2)")
    assert describe(tmp_path).signed
    assert len(list(read_rows(tmp_path))) == 3


def test_an_empty_dataset_has_no_rows(tmp_path):
    """DeepFace writes one before it looks for pictures."""
    assert list(read_rows(dump(tmp_path, []))) == []
    arrays = npz_arrays(0) | {"embedding": np.zeros((0, 0))}
    assert list(read_batches(dump_npz(tmp_path, arrays))) == []


def test_rows_without_a_usable_vector_are_handed_out_and_counted(tmp_path):
    good = vectors(1)[0]
    bad = {
        "no_vector": [None, []],
        "wrong_length": [good[:511], good[:1]],
        "not_finite": [good * np.nan, good * np.inf, good.astype(np.float64) * 1e300],
        "zero_norm": [good * 0, good.astype(np.float64) * 1e-300],
    }
    embeddings = [good, *(vector for group in bad.values() for vector in group)]
    report = ReadReport()
    found = list(read_rows(dump(tmp_path, as_dicts(identities(10), embeddings)), report=report))
    assert [row.embedding is not None for row in found] == [True] + [False] * 9
    assert report.skipped == {name: len(group) for name, group in bad.items()}
    assert (report.rows, report.delivered, report.embeddings, report.dimension) == (10, 10, 1, 512)


def test_vectors_of_another_model_than_the_name_says_are_all_of_wrong_length(tmp_path):
    report = ReadReport()
    path = dump(tmp_path, as_dicts(identities(3), vectors(3)), "ds_dlib_dlib_v2.pkl")
    assert [row.embedding for row in read_rows(path, report=report)] == [None] * 3
    assert report.skipped == {"wrong_length": 3}


def test_the_first_vector_tells_the_length_where_the_name_says_no_model(tmp_path):
    report = ReadReport()
    path = dump(tmp_path, as_dicts(identities(4), [None, *vectors(3, 96)]), "ours.pkl")
    assert [row.embedding is not None for row in read_rows(path, report=report)] == [False, True, True, True]
    assert report.dimension == 96


def test_rows_without_a_person_are_left_out_and_counted(tmp_path):
    paths = [
        "faces/Ana/1.jpg",
        "faces/7.jpg",
        "faces/A\nna/1.jpg",
        "faces/\ud800/1.jpg",
        "faces/" + "x" * 201 + "/1.jpg",
    ]
    report = ReadReport()
    found = list(read_rows(dump(tmp_path, as_dicts(paths, vectors(5))), report=report))
    assert [row.label for row in found] == ["Ana"]
    assert report.skipped == {"no_label": 1, "bad_identity": 3}


def test_rows_of_another_shape_are_counted(tmp_path):
    rows = as_dicts(identities(2), vectors(2))
    odd = [
        {"identity": "faces/Ana/9.jpg"},
        [],
        "faces/Ana/9.jpg",
        7,
        None,
        [1, [0.5, 0.5]],
        ["faces/Ana/9.jpg", "x"],
        {},
    ]
    report = ReadReport()
    assert len(list(read_rows(dump(tmp_path, rows + odd), report=report))) == 2
    assert (report.malformed, report.rows) == (len(odd), 2 + len(odd))


def test_a_list_of_something_else_is_no_dataset(tmp_path):
    with pytest.raises(InvalidDataset):
        list(read_rows(dump(tmp_path, ["a", "b"])))


def test_rows_that_share_their_parts_are_read(tmp_path):
    """A pickle remembers what comes twice."""
    row = as_dicts(identities(1), vectors(1))[0]
    for dumps in (
        pickle.dumps,
        pickle._dumps,
        lambda rows, protocol: pickletools.optimize(pickle.dumps(rows, protocol)),
    ):
        for protocol in (2, 4):
            path = dump(tmp_path, [])
            path.write_bytes(dumps([row, dict(row), row], protocol))
            found = list(read_rows(path))
            assert len(found) == 3
            assert all(np.array_equal(other.embedding, vectors(1)[0]) for other in found)


@pytest.mark.parametrize(
    ("sides", "box"),
    [
        ((-5, -7, 50, 60), Box(0, 0, 45, 53)),
        ((0.4, 1.6, 49.0, 60.0), Box(0, 2, 49, 60)),
        ((0, 0, 1, 1), Box(0, 0, 1, 1)),
    ],
)
def test_boxes_begin_inside_the_picture_in_whole_pixels(tmp_path, sides, box):
    (row,) = read_rows(dump(tmp_path, as_dicts(identities(1), vectors(1), [sides])))
    assert row.box == box


NAN = float("nan")


@pytest.mark.parametrize(
    "sides", [(0, 0, 0, 0), (1, 1, -4, 5), (1, None, 4, 5), ("1", 1, 4, 5), (2**62, 1, 4, 5), (NAN, 1, 4, 5)]
)
def test_what_is_no_box_is_none(tmp_path, sides):
    (row,) = read_rows(dump(tmp_path, as_dicts(identities(1), vectors(1), [sides])))
    assert row.box is None


def test_batches_are_the_rows_column_by_column(tmp_path):
    path = dump(tmp_path, as_dicts(identities(5), [vectors(1)[0], None, *vectors(3)]))
    (batch,) = read_batches(path)
    rows = list(read_rows(path))
    assert len(batch) == 5
    assert batch.labels == [row.label for row in rows]
    assert batch.has_embedding.tolist() == [True, False, True, True, True]
    assert batch.embeddings.shape == (5, 512)
    assert not batch.embeddings[1].any()


def test_the_only_dataset_of_a_folder_is_found(tmp_path):
    with pytest.raises(DatasetNotFound):
        find_dataset(tmp_path)
    path = dump(tmp_path, [])
    (tmp_path / ".hidden.npz").touch()
    (tmp_path / "Ana.jpg").touch()
    assert find_dataset(tmp_path) == path
    dump(tmp_path, [], "representations_dlib.pkl")
    with pytest.raises(AmbiguousDataset, match=r"representations_dlib\.pkl"):
        find_dataset(tmp_path)


def test_what_is_missing_or_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    (tmp_path / "loop.pkl").symlink_to("loop.pkl")
    for name, error in (("pipe.pkl", InvalidDataset), ("loop.pkl", DatasetNotFound), ("none.pkl", DatasetNotFound)):
        for look in (find_dataset, describe, lambda path: next(read_batches(path))):
            with pytest.raises(error):
                look(tmp_path / name)
    with pytest.raises(InvalidDataset):
        describe(tmp_path / "/dev/zero")
    with pytest.raises(DatasetNotFound):
        find_dataset(tmp_path / "a\0b")


def test_a_message_names_the_file_but_not_its_folders(tmp_path):
    with pytest.raises(DatasetNotFound) as caught:
        find_dataset(tmp_path / "no\x1b[2Jthing.pkl")
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "model", "detector"),
    [
        ("representations_vgg_face.pkl", "vgg-face", None),
        ("representations_Facenet512.pkl", "facenet512", None),
        ("ds_vggface_opencv_v2.pkl", "vgg-face", "opencv"),
        ("ds_model_vggface_detector_retinaface_unaligned_normalization_base_expand_10.pkl", "vgg-face", "retinaface"),
        ("ds_model_buffalo_l_detector_yolov8_aligned_normalization_base_expand_0.npz", "buffalo_l", "yolov8"),
        ("ds_model_nonsense_detector_dlib_aligned_normalization_base_expand_0.pkl", "unknown", "dlib"),
        ("gallery.pkl", "unknown", None),
    ],
)
def test_the_name_tells_model_and_detector(tmp_path, name, model, detector):
    info = describe(dump(tmp_path, [], name))
    assert (info.model, info.detector, info.form, info.signed) == (model, detector, "pickle", False)
    assert (info.bytes, len(info.sha256)) == (len(pickle.dumps([], 4)), 64)


def test_the_original_is_never_touched(tmp_path):
    path = dump(tmp_path, as_dicts(identities(3), vectors(3)))
    path.chmod(0o400)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    list(read_rows(path))
    describe(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limits", [ReadLimits(max_rows=9), ReadLimits(max_bytes=1000)])
def test_a_dataset_beyond_the_limits_is_refused(tmp_path, limits):
    for path in (dump(tmp_path, as_dicts(identities(10), vectors(10))), dump_npz(tmp_path, npz_arrays(10))):
        with pytest.raises(DatasetTooLarge):
            list(read_rows(path, limits=limits))
