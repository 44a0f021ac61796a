"""Model packs for tests. What lies in `../shared` may be missing: those tests skip and say so."""

from pathlib import Path

import pytest

from app.vision.install import PackFacts, install_pack
from app.vision.packs import DEFAULT_PACK, InstalledPack, PackStore
from tests.pictures import SHARED
from tests.prepared import put_models

SCRFD_NAME = "scrfd500m_mobilefacenet"


def install_dlib(models_dir: Path) -> InstalledPack:
    """The default pack; its large files are shared with others (`put_models`)."""
    put_models(models_dir)
    return PackStore(models_dir).get(DEFAULT_PACK)


def install_scrfd(models_dir: Path) -> InstalledPack:
    """The SCRFD and MobileFaceNet pack of `../shared`, installed as an operator would; skips without it."""
    return install_pack(
        models_dir,
        SCRFD_NAME,
        source=scrfd_folder(),
        accept_license=True,
        facts=PackFacts(licence="embedder: Apache-2.0; detector: non-commercial research", threshold=0.6),
    )


def scrfd_folder() -> Path:
    """The folder with its two ONNX files, without a manifest; skips without it."""
    folder = SHARED / "models" / SCRFD_NAME
    if not folder.is_dir():
        pytest.skip("needs ../shared/models")
    return folder
