"""The database's fixtures, and what erasures need beside it."""

from pathlib import Path

import pytest

from app.config import Settings, parse_settings
from app.datasets.forgetting import DatasetForgetting
from app.datasets.store import DatasetStore
from app.db.session import Database
from app.enrolment.images import ImageStore
from app.erasure.service import ErasureService
from app.vision.packs import PackStore


@pytest.fixture
def storage(tmp_path: Path, models: Path) -> Settings:
    """A storage folder of the test's own, with the default pack."""
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "pkl").mkdir()
    return parse_settings(storage_dir=tmp_path)


@pytest.fixture
def images(storage: Settings) -> ImageStore:
    return ImageStore(storage.images_dir, enabled=True)


@pytest.fixture
def datasets(storage: Settings) -> DatasetStore:
    return DatasetStore(storage, PackStore(storage.models_dir))


@pytest.fixture
def erasure(database: Database, storage: Settings, datasets: DatasetStore, images: ImageStore) -> ErasureService:
    return ErasureService(database, PackStore(storage.models_dir), DatasetForgetting(storage, datasets), images)
