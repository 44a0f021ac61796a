"""Packs and pictures for tests. What lies in `../shared` may be missing: those tests skip and say so."""

import importlib.util
from pathlib import Path

import pytest

from app.vision.dlib_onnx import prepare_dlib_pack
from app.vision.install import PackFacts, install_pack
from app.vision.packs import InstalledPack

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
SCRFD_NAME = "scrfd500m_mobilefacenet"
MAX_PIXELS = 64_000_000
# Images 1 to 7 of a person are the gallery, 8 to 10 the probes, everywhere.
GALLERY_SIZE = 7


def install_dlib(models_dir: Path) -> InstalledPack:
    """The default pack, made from the installed packages."""
    return prepare_dlib_pack(models_dir)


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


def lfw10() -> dict[str, list[Path]]:
    """Ten persons with ten pictures each, in order; skips without them."""
    folder = SHARED / "faces" / "lfw10"
    if not folder.is_dir():
        pytest.skip("needs ../shared/faces/lfw10")
    return {person.name: sorted(person.glob("*.jpg")) for person in sorted(folder.iterdir())}


def group_picture() -> Path:
    """`t1.jpg` of the insightface package: six faces, 1280 x 886."""
    return _package_file("insightface", "data/images/t1.jpg")


def portrait() -> Path:
    """`Tom_Hanks_54745.png` of the insightface package: one face that fills 112 x 112."""
    return _package_file("insightface", "data/images/Tom_Hanks_54745.png")


def _package_file(package: str, path: str) -> Path:
    # Found, not imported: the package loads a model runtime.
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / path
