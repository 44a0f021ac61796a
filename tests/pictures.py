"""Pictures for tests: those of installed packages, made ones, and those beside the checkout where they are there."""

import io
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
MAX_PIXELS = 64_000_000
# Images 1 to 7 of a person are the gallery, 8 to 10 the probes, everywhere.
GALLERY_SIZE = 7


def lfw10() -> dict[str, list[Path]]:
    """Ten persons with ten pictures each, in order; skips without them."""
    folder = SHARED / "faces" / "lfw10"
    if not folder.is_dir():
        pytest.skip("needs ../shared/faces/lfw10")
    return {person.name: sorted(person.glob("*.jpg")) for person in sorted(folder.iterdir())}


def group_photo() -> Path:
    """Six persons, 1280x886, of the insightface package."""
    return _package_file("insightface", "data/images/t1.jpg")


def portrait() -> Path:
    """One person, 512x512, of scikit-image."""
    return _package_file("skimage", "data/astronaut.png")


def filling_portrait() -> Path:
    """One face that fills its 112x112 picture, of the insightface package."""
    return _package_file("insightface", "data/images/Tom_Hanks_54745.png")


def _package_file(package: str, path: str) -> Path:
    # Found, not imported: the package loads a model runtime.
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / path


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
