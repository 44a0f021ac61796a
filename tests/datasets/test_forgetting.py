"""Taking somebody out of a dataset: each domain's waits for itself alone, and for nothing for ever."""

import fcntl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.config import Settings, parse_settings
from app.datasets.erase import remove_in_process
from app.datasets.forgetting import DatasetForgetting
from app.datasets.store import DatasetStore
from app.errors import DatasetNotWritten
from app.vision.packs import PackStore
from tests.deepface_files import dataset, vectors


@pytest.fixture
def storage(tmp_path: Path, models: Path) -> Settings:
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "pkl").mkdir()
    return parse_settings(storage_dir=tmp_path, request_deadline_s=0.2)


@pytest.fixture
def datasets(storage: Settings) -> DatasetStore:
    return DatasetStore(storage, PackStore(storage.models_dir))


def test_a_dataset_that_is_being_rewritten_holds_up_no_other_and_nobody_for_long(
    storage: Settings, datasets: DatasetStore
) -> None:
    for domain in ("one", "two"):
        dataset(storage.pkl_dir / domain, {"Ana": vectors(2), "Eva": vectors(2, 1)})
    forgetting = DatasetForgetting(storage, datasets)
    assert forgetting.erase_person("one", ["Eva"]) == 2
    with datasets.folder("one").with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetNotWritten):
            forgetting.erase_person("one", ["Ana"])
        assert forgetting.erase_person("two", ["Ana"]) == 2
    assert forgetting.erase_person("one", ["Ana"]) == 2


def test_a_dataset_without_them_is_not_prepared_anew(
    storage: Settings, datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(storage.pkl_dir / "one", {"Ana": vectors(2)})
    datasets.open("one", wait_s=60)
    monkeypatch.setattr(DatasetStore, "rebuild", lambda *_, **__: pytest.fail("it was"))
    assert DatasetForgetting(storage, datasets).erase_person("one", ["nobody"]) == 0
    assert datasets.open("one", wait_s=0).labels == ("Ana",)


def test_a_process_that_hangs_is_ended_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = dataset(tmp_path / "one", {"Ana": vectors(2), "Eva": vectors(2, 1)})
    before = file.read_bytes()
    hanging = (
        "import sys, time, app.datasets.filtering as f\n"
        "f.write_pickled_rows = lambda *_: time.sleep(600)\n"
        "sys.argv[0:2] = []\n"
        "import app.datasets.erase as e\n"
        "sys.exit(e.main())\n"
    )
    started = []

    def popen(argv: list[str], **options: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", hanging, "x", *argv[2:]], **options))
        return started[0]

    fake = SimpleNamespace(**{name: getattr(subprocess, name) for name in subprocess.__all__} | {"Popen": popen})
    monkeypatch.setattr("app.datasets.erase.subprocess", fake)
    with pytest.raises(DatasetNotWritten, match="too long"):
        remove_in_process(file, ["Ana"], allow_numpy=False, timeout_s=3)
    assert started[0].poll() is not None
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_a_preparation_that_hangs_is_ended_and_whom_it_would_have_left_out_answers_no_more(
    storage: Settings, datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(storage.pkl_dir / "one", {"Ana": vectors(2), "Eva": vectors(2, 1)})
    datasets.open("one", wait_s=60)
    hanging = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(datasets, "_build", lambda *_, **__: SimpleNamespace(process=hanging))
    monkeypatch.setattr("app.datasets.forgetting._REBUILD_S", 0.1)
    assert DatasetForgetting(storage, datasets).erase_person("one", ["Ana"]) == 2
    assert hanging.poll() is not None
    monkeypatch.undo()
    assert datasets.open("one", wait_s=60).labels == ("Eva",)
