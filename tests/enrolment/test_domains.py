"""A domain is made anew; what other people's data goes by its name is not its own."""

import shutil
from pathlib import Path

import pytest

from app.config import Settings
from app.datasets.store import DatasetStore
from app.db.session import Database
from app.enrolment.domains import DomainService
from app.errors import DatasetExists
from app.vision.packs import PackStore
from tests.deepface_files import dataset, vectors


@pytest.fixture
def service(database: Database, database_settings: Settings, models: Path, tmp_path: Path) -> DomainService:
    settings = database_settings.model_copy(update={"storage_dir": tmp_path})
    packs = PackStore(models)
    return DomainService(settings, database, packs, DatasetStore(settings, packs))


def test_a_domain_does_not_come_by_anothers_dataset(service: DomainService, tmp_path: Path) -> None:
    # As a deleted domain of that name left it: whoever has the name next would be answered with these people in an outage.
    dataset(tmp_path / "pkl" / "people", {"Ana": vectors(2)})
    with pytest.raises(DatasetExists, match="migrate-pkl"):
        service.create("people")
    assert service.create("others").name == "others"
    shutil.rmtree(tmp_path / "pkl" / "people")
    assert service.create("people").name == "people"


@pytest.mark.parametrize("broken", [b"", b"no pickle"])
def test_a_dataset_that_cannot_be_used_counts_and_an_empty_folder_does_not(
    service: DomainService, tmp_path: Path, broken: bytes
) -> None:
    folder = tmp_path / "pkl" / "people"
    folder.mkdir(parents=True)
    (folder / "representations_dlib.pkl").write_bytes(broken)
    with pytest.raises(DatasetExists):
        service.create("people")
    (tmp_path / "pkl" / "empty").mkdir()
    assert service.create("empty").name == "empty"
