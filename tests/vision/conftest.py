from pathlib import Path

import pytest

from app.vision.engine import FaceEngine, load_engine
from app.vision.packs import InstalledPack
from tests.packs import install_dlib, install_scrfd


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def dlib_pack(models_dir: Path) -> InstalledPack:
    return install_dlib(models_dir)


@pytest.fixture(scope="session")
def dlib_engine(dlib_pack: InstalledPack) -> FaceEngine:
    return load_engine(dlib_pack)


@pytest.fixture(scope="session")
def scrfd_pack(models_dir: Path) -> InstalledPack:
    return install_scrfd(models_dir)


@pytest.fixture(scope="session")
def scrfd_engine(scrfd_pack: InstalledPack) -> FaceEngine:
    return load_engine(scrfd_pack)


@pytest.fixture(scope="session", params=["dlib", "scrfd"])
def engine(request: pytest.FixtureRequest) -> FaceEngine:
    """Both kinds of engine: what every engine has to do is asked of each."""
    return request.getfixturevalue(f"{request.param}_engine")
