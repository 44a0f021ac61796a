"""Pictures for tests: those of installed packages, made ones, and the ones beside the checkout where they are there."""

import io
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
LFW10 = SHARED / "faces" / "lfw10"

needs_lfw10 = pytest.mark.skipif(not LFW10.is_dir(), reason="../shared/faces/lfw10 is not on this machine")


def package_file(package: str, *parts: str) -> Path:
    return Path(find_spec(package).submodule_search_locations[0]).joinpath(*parts)


def group_photo() -> Path:
    """Six persons, 1280x886."""
    return package_file("insightface", "data", "images", "t1.jpg")


def portrait() -> Path:
    """One person, 512x512."""
    return package_file("skimage", "data", "astronaut.png")


def lfw_pictures(person: str) -> list[Path]:
    """A person's ten pictures in order: 1 to 7 are the gallery, 8 to 10 the probes."""
    return sorted((LFW10 / person).iterdir())


def lfw_persons() -> list[str]:
    return sorted(entry.name for entry in LFW10.iterdir())


def encode(image: Image.Image, format_: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def faceless() -> bytes:
    """A picture of nothing."""
    gradient = np.tile(np.linspace(0, 255, 320, dtype=np.uint8), (240, 1))
    return encode(Image.fromarray(gradient).convert("RGB"))


def blurred_face() -> bytes:
    """One face that is still found, but that nobody would enrol."""
    from PIL import ImageFilter

    face = Image.open(group_photo()).convert("RGB").crop((1085, 256, 1260, 431))
    return encode(face.filter(ImageFilter.GaussianBlur(4)))


def many_faces(columns: int = 8, rows: int = 5) -> bytes:
    """Forty faces: the six of the group photo, cut out and repeated."""
    corners = [(425, 273), (30, 247), (693, 323), (846, 43), (1085, 256), (231, 143)]
    photo = Image.open(group_photo()).convert("RGB")
    side = 175
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for n in range(columns * rows):
        x, y = corners[n % len(corners)]
        sheet.paste(photo.crop((x, y, x + side, y + side)), (n % columns * side, n // columns * side))
    return encode(sheet, quality=92)


def huge_png(side: int = 30_000) -> bytes:
    """A small file that decodes to `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    line = bytes(1 + (side + 7) // 8)
    pixels = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def animated_gif() -> bytes:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
