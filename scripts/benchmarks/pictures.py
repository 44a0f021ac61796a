"""The pictures that are measured with."""

import importlib.util
from pathlib import Path

import click

_LFW10 = Path(__file__).resolve().parents[2] / ".." / "shared" / "faces" / "lfw10"


def photos() -> list[Path]:
    """The hundred of `../shared` where they are; else the group picture that comes with insightface."""
    if _LFW10.is_dir():
        return sorted(_LFW10.glob("*/*.jpg"))
    return [group_photo()]


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
        raise click.ClickException(f"The package {package}, which has the picture, is not installed.")
    return Path(spec.origin).parent / path
