"""Every library's way to say that memory has run out arrives as MemoryError, and nothing else does."""

import ctypes
import io
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import ImageTooLarge, InvalidImage
from app.vision.engine import FaceEngine
from app.vision.images import decode_image
from app.vision.memory import has_room_for
from tests import pictures
from tests.pictures import MAX_PIXELS, encode

# Its pixels take more than what glibc may have kept of memory that was freed before: 32 MB (mallopt(3), M_MMAP_THRESHOLD).
_SIDE = 3500
_MIB = 1024 * 1024


def outcome_within(spare_bytes: int, work: Callable[[], object]) -> str:
    """What becomes of `work` in a process that may have so much more memory: "done", or the name of the exception."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        use_up_what_was_freed()
        limit = data_bytes() + spare_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            work()
            said = "done"
        except BaseException as error:
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"ended with {status}"
    return said


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmData:") + 1]) * 1024


def use_up_what_was_freed() -> None:
    """Take all larger pieces of memory that earlier tests have freed and glibc has kept: they are counted already."""
    malloc = ctypes.CDLL(None).malloc
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    before = data_bytes()
    while data_bytes() == before:
        malloc(256 * 1024)


@pytest.fixture(scope="module")
def large() -> Image.Image:
    gradient = np.tile(np.linspace(0, 255, _SIDE, dtype=np.uint8), (_SIDE, 1))
    return Image.fromarray(gradient).convert("RGB")


def sixteen_bit(image: Image.Image) -> bytes:
    return encode(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG", compress_level=1)


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg": encode,
    "progressive jpeg": lambda image: encode(image, progressive=True, subsampling=0),
    "cmyk jpeg": lambda image: encode(image.convert("CMYK")),
    "png with alpha": lambda image: encode(image.convert("RGBA"), "PNG", compress_level=1),
    "16-bit png": sixteen_bit,
    "palette": lambda image: encode(image.quantize(16), "PNG", compress_level=1),
    "webp": lambda image: encode(image, "WEBP", method=0),
    "bmp": lambda image: encode(image, "BMP"),
}


@pytest.fixture(scope="module", params=FILES)
def file(request: pytest.FixtureRequest, large: Image.Image) -> bytes:
    return FILES[request.param](large)


def test_a_picture_that_does_not_fit_is_no_damaged_one(file: bytes) -> None:
    def decode() -> object:
        return decode_image(file, max_pixels=MAX_PIXELS)

    told = [outcome_within(spare * _MIB, decode) for spare in (1, 20, 45, 60, 80, 100, 130)]

    assert told[0] == "MemoryError"
    assert set(told) <= {"MemoryError", "done"}
    assert outcome_within(1024 * _MIB, decode) == "done"


def test_a_damaged_picture_is_none_that_does_not_fit(file: bytes) -> None:
    half = file[: len(file) // 2]
    assert outcome_within(1024 * _MIB, lambda: decode_image(half, max_pixels=MAX_PIXELS)) == "InvalidImage"


@pytest.mark.slow
def test_an_engine_without_memory_says_so_wherever_it_runs_out(engine: FaceEngine) -> None:
    crowd = encode(Image.open(io.BytesIO(pictures.many_faces())).resize((8 * 500, 5 * 500)))

    def analyze() -> object:
        return engine.analyze(crowd, max_pixels=MAX_PIXELS)

    told = [outcome_within(spare * _MIB, analyze) for spare in range(0, 100, 6)]

    assert told[0] == "MemoryError"
    assert set(told) <= {"MemoryError", "done"}
    assert outcome_within(1024 * _MIB, analyze) == "done"


def test_room_is_asked_for_and_not_taken() -> None:
    assert has_room_for(0)
    assert has_room_for(100 * _MIB)
    assert not has_room_for(2**62)
    assert outcome_within(50 * _MIB, lambda: 1 / has_room_for(100 * _MIB)) == "ZeroDivisionError"


def extended_webp(width: int, height: int) -> bytes:
    """A whole WebP file of 4 x 4 pixels whose header announces others."""
    simple = encode(Image.new("RGB", (4, 4)), "WEBP", lossless=True)[12:]
    header = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little")
    chunks = header + (height - 1).to_bytes(3, "little") + simple
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def test_the_size_in_the_header_of_a_webp_file_is_looked_at_before_there_is_room_for_it() -> None:
    assert decode_image(extended_webp(4, 4), max_pixels=MAX_PIXELS).shape == (4, 4, 3)
    with pytest.raises(ImageTooLarge, match="16383 x 16383"):
        decode_image(extended_webp(16383, 16383), max_pixels=MAX_PIXELS)
    large = extended_webp(16383, 16383)
    assert outcome_within(20 * _MIB, lambda: decode_image(large, max_pixels=MAX_PIXELS)) == "ImageTooLarge"


@pytest.mark.parametrize("lossless", [True, False])
def test_the_size_of_a_plain_webp_file_is_looked_at(lossless: bool) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (300, 200)).save(stream, "WEBP", lossless=lossless)
    assert decode_image(stream.getvalue(), max_pixels=60_000).shape == (200, 300, 3)
    with pytest.raises(ImageTooLarge, match="300 x 200"):
        decode_image(stream.getvalue(), max_pixels=59_999)
    for end in (12, 16, 20, 29, 40):
        with pytest.raises(InvalidImage):
            decode_image(stream.getvalue()[:end], max_pixels=60_000)
