"""The pictures that are measured with."""

from pathlib import Path

from app.benchmark.pictures import group_photo, portrait

__all__ = ["group_photo", "photos", "portrait"]

_LFW10 = Path(__file__).resolve().parents[2] / ".." / "shared" / "faces" / "lfw10"


def photos() -> list[Path]:
    """The hundred of `../shared` where they are; else the group picture that comes with insightface."""
    if _LFW10.is_dir():
        return sorted(_LFW10.glob("*/*.jpg"))
    return [group_photo()]
