import os
from pathlib import Path

import pytest

from app.config import ENV_FILE, Settings

# The operator's own settings are not the tests'; above all not their database.
for _name in Settings.model_fields:
    os.environ.pop(_name.upper(), None)
os.environ[ENV_FILE] = os.devnull

from tests.packs import install_dlib  # noqa: E402
from tests.service.running import RunningService, running_service  # noqa: E402


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> RunningService:
    """One running service for all tests that leave it as they found it."""
    with running_service(tmp_path_factory.mktemp("service") / "storage") as running:
        yield running


@pytest.fixture
def http(service):
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with the default pack; pools link to its files, so nobody may write into them."""
    folder = tmp_path_factory.mktemp("models")
    install_dlib(folder)
    return folder
