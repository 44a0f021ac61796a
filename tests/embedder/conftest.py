from pathlib import Path

import pytest

from app.config import Settings, parse_settings
from tests.packs import install_dlib


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Those of a storage folder with the default pack, and without a running service."""
    storage: Path = tmp_path_factory.mktemp("prepared")
    made = parse_settings(storage_dir=storage, max_upload_bytes=2_000_000)
    install_dlib(made.models_dir)
    return made
