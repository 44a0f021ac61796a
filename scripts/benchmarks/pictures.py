"""The pictures that are measured with."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from app.benchmark.pictures import group_photo, portrait

__all__ = ["group_photo", "large_photo", "photos", "portrait"]

_LFW10 = Path(__file__).resolve().parents[2] / ".." / "shared" / "faces" / "lfw10"
# 12 megapixels, as a telephone's camera gives them, and how large the person's picture is in it.
_WIDTH, _HEIGHT, _PERSON = 4000, 3000, 1800
# What a sensor adds. Without it a picture that was enlarged compresses, and decodes, as no photo does.
_NOISE = 4.0
_QUALITY = 92


def photos() -> list[Path]:
    """The hundred of `../shared` where they are; else the group picture that comes with insightface."""
    if _LFW10.is_dir():
        return sorted(_LFW10.glob("*/*.jpg"))
    return [group_photo()]


def large_photo(picture: Path) -> bytes:
    """A JPEG of 12 megapixels made of a small picture: enlarged, before its own blurred likeness, with a sensor's noise."""
    image = Image.open(picture).convert("RGB")
    canvas = image.resize((_WIDTH // 8, _HEIGHT // 8)).filter(ImageFilter.GaussianBlur(8)).resize((_WIDTH, _HEIGHT))
    person = image.resize((_PERSON, _PERSON * image.height // image.width), Image.Resampling.LANCZOS)
    canvas.paste(person, ((_WIDTH - person.width) // 2, (_HEIGHT - person.height) // 2))
    noise = np.random.default_rng(0).normal(scale=_NOISE, size=(_HEIGHT, _WIDTH, 1)).astype(np.float32)
    pixels = np.clip(np.asarray(canvas, np.float32) + noise, 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
