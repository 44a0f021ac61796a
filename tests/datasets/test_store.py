"""Where a domain's dataset is found, and that its searchable form follows it while it is in use."""

import json
import os
import shutil
import subprocess
import sys
import threading
import unicodedata
from contextlib import suppress

import numpy as np
import psutil
import pytest

from app.config import PROJECT_ROOT, Settings, parse_settings
from app.datasets import store as storing
from app.datasets.contracts import deepface_model
from app.datasets.names import deepface_file_name
from app.datasets.store import DatasetStore
from app.errors import ContractMismatch, DatasetNotFound, DatasetUnavailable
from app.server.parts import has_datasets
from app.vision.packs import PackStore
from tests import deepface_files as files
from tests.packs import install_dlib, install_scrfd
from tests.service.running import eventually

WAIT_S = 120
_stores: list[DatasetStore] = []


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    install_dlib(folder)
    return folder


@pytest.fixture
def settings(tmp_path, models) -> Settings:
    storage = tmp_path / "storage"
    (storage / "pkl").mkdir(parents=True)
    (storage / "models").symlink_to(models)
    return parse_settings(storage_dir=storage, vector_db_enabled=False, pkl_datasets={})


@pytest.fixture
def store(settings) -> DatasetStore:
    return make_store(settings)


@pytest.fixture(autouse=True)
def _no_process_is_left_behind():
    yield
    while _stores:
        for build in _stores.pop()._builds.values():
            build.process.wait()


@pytest.fixture(autouse=True)
def _no_pause_between_builds(monkeypatch):
    monkeypatch.setattr(storing, "_BETWEEN_BUILDS_S", 0.0)


def make_store(settings: Settings, **changes) -> DatasetStore:
    settings = settings.model_copy(update=changes)
    _stores.append(DatasetStore(settings, PackStore(settings.models_dir)))
    return _stores[-1]


def labels(store: DatasetStore, domain: str) -> tuple[str, ...]:
    return store.open(domain, wait_s=WAIT_S).labels


def persons(*names: str, rows: int = 2) -> dict[str, np.ndarray]:
    return {name: files.vectors(rows, seed=number) for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("folder", "domain"),
    [
        ("slovenia", "slovenia"),
        ("Škoda", "Škoda"),
        (unicodedata.normalize("NFD", "Škoda"), "Škoda"),
        ("a%2Fb", "a/b"),
        ("a%2fb %C5%A0", "a/b Š"),
        ("%2E%2E", ".."),
        ("%2Ehidden", ".hidden"),
        ("100%25", "100%"),
        (" padded ", "padded"),
        ("$(touch x); '\"", "$(touch x); '\""),
    ],
)
def test_a_domains_folder_may_be_written_in_any_way_that_a_url_allows(settings, store, folder, domain):
    files.dataset(settings.pkl_dir / folder, persons("a"))
    assert store.domains() == [domain]
    assert labels(store, domain) == ("a",)


@pytest.mark.parametrize("domain", ["..", ".", "../outside", "a/b", "/", "%2E%2E", ".compiled", "\x00", "a" * 5000])
def test_a_name_never_becomes_part_of_a_path(settings, store, tmp_path, domain):
    files.dataset(settings.storage_dir, persons("stolen"))
    files.dataset(settings.storage_dir / "outside", persons("stolen"))
    files.dataset(settings.pkl_dir / "a" / "b", persons("stolen"))
    with pytest.raises(DatasetNotFound):
        store.open(domain, wait_s=WAIT_S)


def test_folders_that_no_domain_can_have_are_passed_over(settings, store):
    for name in ("%00", "%0A", ".hidden", "%20", "x" * 201):
        files.dataset(settings.pkl_dir / name, persons("a"))
    (settings.pkl_dir / "README.md").write_text("no folder")
    (settings.pkl_dir / os.fsdecode(b"\xff\xfe")).mkdir()
    assert store.domains() == []
    assert store.report() == []


def test_a_configured_dataset_goes_before_the_folder_and_may_be_a_file_or_a_folder(settings, tmp_path):
    files.dataset(settings.pkl_dir / "both", persons("in the folder"))
    file = files.dataset(tmp_path / "elsewhere", persons("configured"))
    store = make_store(settings, pkl_datasets={"both": file, "a/b": tmp_path / "elsewhere"})
    assert store.domains() == ["a/b", "both"]
    assert labels(store, "both") == labels(store, "a/b") == ("configured",)
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]  # nothing is written beside it


def test_what_will_never_be_found_is_told_and_stops_nobody(settings, tmp_path):
    files.dataset(settings.pkl_dir / "right", persons("a"))
    files.dataset(settings.pkl_dir, persons("b"), "stray.pkl")
    (settings.pkl_dir / "README.md").write_text("no dataset")
    (settings.pkl_dir / "empty").mkdir()
    (settings.pkl_dir / "pipe").mkdir()
    os.mkfifo(settings.pkl_dir / "pipe" / files.DLIB_NAME)
    store = make_store(settings, pkl_datasets={"gone": tmp_path / "nowhere.pkl"})
    assert store.misplaced() == [
        "stray.pkl lies in no domain's folder.",
        "Domain 'empty': The folder empty holds no dataset, that is, no .pkl or .npz file.",
        "Domain 'gone': There is no dataset nowhere.pkl, or it may not be read.",
        "Domain 'pipe': The folder pipe holds no dataset, that is, no .pkl or .npz file.",
    ]
    assert [status.domain for status in store.report()] == ["right"]


def test_only_a_place_for_a_dataset_counts_as_one(settings, tmp_path):
    (settings.pkl_dir / ".compiled").mkdir()
    files.dataset(settings.pkl_dir, persons("b"), "stray.pkl")
    assert not has_datasets(settings)
    assert has_datasets(settings.model_copy(update={"pkl_datasets": {"d": tmp_path}}))
    (settings.pkl_dir / "d").mkdir()
    assert has_datasets(settings)


def test_an_absent_dataset_is_absent_until_it_comes_and_after_it_went(settings, store):
    (settings.pkl_dir / "d").mkdir()
    for _ in range(2):
        with pytest.raises(DatasetNotFound):
            store.open("d", wait_s=WAIT_S)
        source = files.dataset(settings.pkl_dir / "d", persons("a"))
        assert labels(store, "d") == ("a",)
        source.unlink()


def test_two_datasets_in_a_folder_and_two_folders_of_a_name_are_refused_by_name(settings, store):
    files.dataset(settings.pkl_dir / "d", persons("a"))
    files.dataset(settings.pkl_dir / "d", persons("b"), "representations_dlib.pkl")
    with pytest.raises(DatasetUnavailable, match="representations_dlib"):
        store.open("d", wait_s=WAIT_S)
    files.dataset(settings.pkl_dir / "e e", persons("a"))
    files.dataset(settings.pkl_dir / "e%20e", persons("a"))
    with pytest.raises(DatasetUnavailable, match="2 folders"):
        store.open("e e", wait_s=WAIT_S)
    assert len([status for status in store.report() if status.problem]) == 2


def test_a_second_dataset_beside_the_first_leaves_the_old_version_in_service_and_is_reported(settings, store):
    files.dataset(settings.pkl_dir / "d", persons("old"))
    assert labels(store, "d") == ("old",)
    files.dataset(settings.pkl_dir / "d", persons("new"), "representations_dlib.pkl")
    for each in (store, make_store(settings)):  # the one that has it mapped, and one that finds it compiled
        assert each.open("d", wait_s=0).labels == ("old",)
    (status,) = store.report()
    assert (status.rows, "2 datasets" in str(status.problem)) == (2, True)
    (settings.pkl_dir / "d" / files.DLIB_NAME).unlink()
    eventually(lambda: store.open("d", wait_s=0).labels == ("new",))


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle", b"\x1f\x8b\x08\x00junk", b"\x80\x04]\x94."])
def test_a_broken_dataset_is_a_clear_error_and_is_not_tried_again_until_it_changes(settings, store, content):
    source = settings.pkl_dir / "d" / files.DLIB_NAME
    source.parent.mkdir()
    source.write_bytes(content)
    for each in (store, make_store(settings)):
        with pytest.raises(DatasetUnavailable, match="cannot be used"):
            each.open("d", wait_s=WAIT_S)
    assert make_store(settings)._builds == {}
    files.dataset(source.parent, persons("a"))
    assert labels(store, "d") == ("a",)


def test_a_pipe_in_the_place_of_a_dataset_holds_nobody_up(settings, store):
    (settings.pkl_dir / "d").mkdir()
    os.mkfifo(settings.pkl_dir / "d" / files.DLIB_NAME)
    with pytest.raises((DatasetUnavailable, DatasetNotFound)):
        store.open("d", wait_s=WAIT_S)


def test_another_models_dataset_is_refused_until_its_pack_is_the_active_one(settings, store, tmp_path):
    files.dataset(settings.pkl_dir / "d", {"a": files.vectors(1, dimension=512)}, files.ARCFACE_NAME)
    with pytest.raises(ContractMismatch, match="arcface"):
        store.open("d", wait_s=WAIT_S)
    (settings.storage_dir / "models").unlink()
    scrfd = install_scrfd(settings.storage_dir / "models").manifest
    (settings.pkl_dir / "d" / files.ARCFACE_NAME).unlink()
    name = deepface_file_name(deepface_model(scrfd.contract.id), "scrfd")
    files.dataset(settings.pkl_dir / "d", persons("a"), name)
    assert labels(make_store(settings, face_model=scrfd.name), "d") == ("a",)


def test_a_dataset_under_another_name_than_deepfaces_is_told_which_to_give_it(settings, store):
    named = files.dataset(settings.pkl_dir / "d", persons("a"), "slovenia.pkl")
    with pytest.raises(ContractMismatch, match=r"such as representations_dlib\.pkl"):
        store.open("d", wait_s=WAIT_S)
    assert ["representations_dlib.pkl" in str(status.problem) for status in store.report()] == [True]
    named.rename(named.with_name("representations_dlib.pkl"))
    assert labels(store, "d") == ("a",)


def test_while_a_changed_dataset_is_prepared_the_old_one_serves_and_then_the_new_one_does(settings, store):
    files.dataset(settings.pkl_dir / "d", persons("old"))
    before = store.open("d", wait_s=WAIT_S)
    files.dataset(settings.pkl_dir / "d", persons("new"))
    assert store.open("d", wait_s=0).labels == ("old",)
    eventually(lambda: store.open("d", wait_s=0).labels == ("new",))
    assert before.vectors.sum() != 0  # who holds the old one can still search it


def test_a_new_version_under_another_file_name_replaces_the_old_one_without_a_gap(settings, store):
    old = files.dataset(settings.pkl_dir / "d", persons("old"), "representations_dlib.pkl")
    assert labels(store, "d") == ("old",)
    old.unlink()
    files.dataset(settings.pkl_dir / "d", persons("new"))
    assert store.open("d", wait_s=0).labels == ("old",)
    eventually(lambda: store.open("d", wait_s=0).labels == ("new",))


def test_a_dataset_that_turns_out_broken_leaves_the_old_one_in_service_and_is_reported(settings, store):
    source = files.dataset(settings.pkl_dir / "d", persons("old"))
    assert labels(store, "d") == ("old",)
    source.write_bytes(source.read_bytes()[:100])
    assert store.open("d", wait_s=0).labels == ("old",)
    eventually(lambda: any("cannot be used" in str(status.problem) for status in store.report()))
    assert store.open("d", wait_s=0).labels == ("old",)
    assert labels(make_store(settings), "d") == ("old",)  # also after a restart
    assert [(status.domain, status.rows, status.persons) for status in store.report()] == [("d", 2, 1)]


def test_a_dataset_may_be_replaced_time_and_again_while_many_threads_and_processes_search(settings, store):
    """Everybody sees whole versions only, and never an older one after a newer one."""
    files.dataset(settings.pkl_dir / "d", versioned(0))
    labels(store, "d")
    done = threading.Event()
    faults: list[str] = []

    def searcher(own: DatasetStore) -> None:
        newest = 0
        while not done.is_set():
            dataset = own.open("d", wait_s=0)
            version = int(dataset.labels[0].split()[1])
            (matches,) = dataset.search(dataset.vectors[-1:], threshold=0.1, top_k=1)
            if version < newest or len(dataset.labels) != 3 or matches[0].label not in dataset.labels:
                faults.append(f"{newest} {dataset.labels} {matches}")
            newest = version

    threads = [threading.Thread(target=searcher, args=(own,)) for own in (store, store, make_store(settings))]
    for thread in threads:
        thread.start()
    try:
        for version in range(1, 6):
            files.dataset(settings.pkl_dir / "d", versioned(version))
            eventually(lambda wanted=version: f"version {wanted} 0" in store.open("d", wait_s=0).labels)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert faults == []


def versioned(number: int) -> dict[str, np.ndarray]:
    return {f"version {number} {n}": files.vectors(20, seed=n) for n in range(3)}


def test_processes_that_want_the_same_dataset_make_it_once(settings):
    files.dataset(settings.pkl_dir / "d", persons("a", rows=500))
    code = (
        "import sys\nfrom pathlib import Path\nfrom app.config import parse_settings\n"
        "from app.datasets.store import DatasetStore\nfrom app.vision.packs import PackStore\n"
        "settings = parse_settings(storage_dir=Path(sys.argv[1]), vector_db_enabled=False)\n"
        f"print(DatasetStore(settings, PackStore(settings.models_dir)).open('d', wait_s={WAIT_S}).record.token)\n"
    )
    argv = [sys.executable, "-c", code, str(settings.storage_dir)]
    racers = [subprocess.Popen(argv, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [racer.communicate()[0].splitlines()[-1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(set(outputs)) == 1


def test_a_dataset_that_takes_longer_than_one_can_wait_is_a_clear_answer(settings, store):
    files.dataset(settings.pkl_dir / "d", persons("a"))
    with pytest.raises(DatasetUnavailable, match="still being prepared"):
        store.open("d", wait_s=0)
    eventually(lambda: labels(store, "d") == ("a",))


def test_a_process_that_prepares_and_is_killed_is_a_clear_answer_and_starts_over(settings, store, monkeypatch):
    monkeypatch.setattr(storing, "_BETWEEN_BUILDS_S", 3600.0)
    files.dataset(settings.pkl_dir / "d", persons("a"))
    with pytest.raises(DatasetUnavailable):
        store.open("d", wait_s=0)
    child = psutil.Process(store._builds["d"].process.pid)
    for process in [*child.children(recursive=True), child]:
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            process.kill()
    child.wait()
    with pytest.raises(DatasetUnavailable, match="the log says why"):
        store.open("d", wait_s=WAIT_S)
    monkeypatch.setattr(storing, "_BETWEEN_BUILDS_S", 0.0)
    assert labels(store, "d") == ("a",)


def test_the_process_that_prepares_inherits_no_secret(settings, store, monkeypatch):
    monkeypatch.setenv("VECTOR_DB_URL", "postgresql://user:hunter2@db/facedex")
    files.dataset(settings.pkl_dir / "d", persons("a", rows=3000))
    with pytest.raises(DatasetUnavailable):
        store.open("d", wait_s=0)
    environment = psutil.Process(store._builds["d"].process.pid).environ()
    assert "hunter2" not in json.dumps(environment)
    labels(store, "d")


def test_old_pickles_with_numpy_arrays_are_read_where_the_operator_allows_it(settings, store):
    import pickle

    path = settings.pkl_dir / "d" / "representations_dlib.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps([["x/a/1.jpg", files.vectors(1)[0].astype(np.float64)]]))
    with pytest.raises(DatasetUnavailable):
        store.open("d", wait_s=WAIT_S)
    assert labels(make_store(settings, pkl_allow_numpy=True), "d") == ("a",)


def test_preparing_makes_all_and_forgets_those_that_are_gone(settings, store):
    for name in ("one", "two"):
        files.dataset(settings.pkl_dir / name, persons(name))
    (settings.pkl_dir / "broken").mkdir()
    (settings.pkl_dir / "broken" / files.DLIB_NAME).write_bytes(b"")
    store.prepare()
    fresh = make_store(settings)
    assert fresh.open("one", wait_s=0).labels == ("one",)
    assert {status.domain: status.rows for status in fresh.report()} == {"broken": 0, "one": 2, "two": 2}
    shutil.rmtree(settings.pkl_dir / "two")
    fresh.prepare()
    assert len(list((settings.pkl_dir / ".compiled").iterdir())) == 2


def test_a_dataset_on_a_read_only_place_is_never_written_to(settings, store, tmp_path):
    source = files.dataset(tmp_path / "elsewhere", persons("a"))
    source.chmod(0o444)
    source.parent.chmod(0o555)
    before = (source.read_bytes(), source.stat().st_mtime_ns, sorted(source.parent.iterdir()))
    try:
        assert labels(make_store(settings, pkl_datasets={"d": source}), "d") == ("a",)
        assert (source.read_bytes(), source.stat().st_mtime_ns, sorted(source.parent.iterdir())) == before
    finally:
        source.parent.chmod(0o755)
