"""Pictures that come with packages that Facedex needs anyway."""

import importlib.util
from pathlib import Path

from app.errors import FileNotFound


def group_photo() -> Path:
    """Six persons, 1280x886, of insightface."""
    return _package_file("insightface", "data/images/t1.jpg")


def portrait() -> Path:
    """One person, 512x512, a PNG of scikit-image."""
    return _package_file("skimage", "data/astronaut.png")


def _package_file(package: str, path: str) -> Path:
    # Found, not imported: the packages load model runtimes.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFound(f"The package {package}, which has the picture, is not installed.")
    return Path(spec.origin).parent / path
