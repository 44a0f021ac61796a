import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from app.vision.images import decode_image
from tests.pictures import MAX_PIXELS

# A quarter each of red, green, blue and white: 32 x 16, so that no turn looks like another.
_CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def _corner_picture() -> Image.Image:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16], pixels[8:, 16:] = _CORNERS.values()
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def _decode(data: bytes) -> np.ndarray:
    return decode_image(data, max_pixels=MAX_PIXELS)


def _seen(data: bytes) -> list[str]:
    """Colour names of the four quarters, row by row."""
    image = _decode(data)
    height, width = image.shape[:2]
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    rgb = [image[point][::-1].astype(int) for point in points]
    return [min(_CORNERS, key=lambda name: np.abs(colour - _CORNERS[name]).sum()) for colour in rgb]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_accepted_formats_decode_to_bgr(file_format: str) -> None:
    data = _encoded(_corner_picture(), file_format)

    image = _decode(data)

    assert image.shape == (16, 32, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert _seen(data) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(file_format: str, orientation: int) -> None:
    # How a camera that was held so stores the picture; from the definition of the EXIF tag, row 0 and column 0 of the file.
    upright = np.asarray(_corner_picture())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif)

    assert _decode(data).shape == (16, 32, 3)
    assert _seen(data) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientation_shows_the_picture_as_stored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    assert _seen(_encoded(_corner_picture(), "JPEG", exif=exif)) == ["red", "green", "blue", "white"]


def test_damaged_exif_does_not_hide_a_good_picture() -> None:
    data = _encoded(_corner_picture(), "JPEG")
    garbage = b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" + bytes(range(60))
    segment = b"\xff\xe1" + struct.pack(">H", len(garbage) + 2) + garbage

    assert _seen(data[:2] + segment + data[2:]) == ["red", "green", "blue", "white"]


def test_grey_palette_and_black_and_white_become_colour() -> None:
    grey = _decode(_encoded(Image.new("L", (8, 8), 100), "PNG"))
    palette = _encoded(_corner_picture().quantize(4), "PNG")
    bilevel = _decode(_encoded(Image.new("1", (8, 8), 1), "PNG"))

    assert (grey == 100).all()
    assert grey.shape == (8, 8, 3)
    assert _seen(palette) == ["red", "green", "blue", "white"]
    assert (bilevel == 255).all()


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)

    image = _decode(_encoded(Image.fromarray(ramp), "PNG"))

    assert np.abs(image[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_sixteen_bit_colour_keeps_its_colours() -> None:
    pixels = np.asarray(_corner_picture()).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    assert _seen(_png(32, 16, rows, depth=16, colour=2)) == ["red", "green", "blue", "white"]


def test_cmyk_jpeg_shows_its_colours() -> None:
    # Pillow writes CMYK as Adobe's programs do, with inverted values and their marker.
    data = _encoded(_corner_picture().convert("CMYK"), "JPEG", quality=95)

    assert b"Adobe" in data
    assert _seen(data) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(file_format: str) -> None:
    half_red = _decode(_encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), file_format, lossless=True))
    invisible = _decode(_encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), file_format, lossless=True))

    assert np.abs(half_red.astype(int) - (127, 127, 255)).max() <= 1
    assert (invisible == 255).all()


def test_transparent_palette_colour_is_laid_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 255, 255, 0, 0])

    assert (_decode(_encoded(image, "PNG", transparency=0)) == 255).all()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(file_format: str) -> None:
    frames = [_corner_picture(), Image.new("RGB", (32, 16), "blue")]
    data = _encoded(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)

    assert _seen(data) == ["red", "green", "blue", "white"]


@pytest.mark.parametrize(("file_format", "named"), [("GIF", "GIF"), ("TIFF", "TIFF"), ("ICO", "ICO"), ("AVIF", "AVIF")])
def test_other_formats_are_unsupported_and_the_accepted_ones_named(file_format: str, named: str) -> None:
    animated = {"save_all": True, "append_images": [Image.new("RGB", (32, 16))]} if file_format == "GIF" else {}

    with pytest.raises(UnsupportedImage, match=rf"{named} picture; accepted are JPEG, PNG, WebP and BMP"):
        _decode(_encoded(_corner_picture(), file_format, **animated))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"not a picture",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"<svg/>",
        b"\xff" * 4096,
    ],
    ids=["empty", "zero", "text", "jpeg-start", "png-start", "webp-start", "bmp-start", "svg", "filled"],
)
def test_garbage_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        _decode(data)


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})],
    ids=["jpeg", "progressive-jpeg", "png", "webp", "bmp"],
)
def test_truncated_files_are_invalid_and_not_half_grey(
    file_format: str, options: dict[str, bool], share: float
) -> None:
    data = _encoded(_noise(), file_format, **options)

    with pytest.raises(InvalidImage):
        _decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["4:2:0", "progressive", "4:4:4"]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_both_ways_to_decode_a_jpeg_give_the_same_pixels(mode: str, options: dict[str, int]) -> None:
    data = _encoded(_noise().convert(mode), "JPEG", **options)

    # Bytes after the end, as some cameras append, take the way through Pillow.
    assert np.array_equal(_decode(data), _decode(data + b"\0appended"))


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    # 30,000 x 30,000 pixels announced, none there: decoding it would be another error.
    bomb = _png(30_000, 30_000, rows=b"")

    with pytest.raises(ImageTooLarge, match="30000 x 30000"):
        _decode(bomb)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_limit_counts_pixels_of_every_format(file_format: str) -> None:
    data = _encoded(_corner_picture(), file_format)

    assert decode_image(data, max_pixels=32 * 16).shape == (16, 32, 3)
    with pytest.raises(ImageTooLarge):
        decode_image(data, max_pixels=32 * 16 - 1)


def test_a_picture_of_no_size_is_invalid() -> None:
    with pytest.raises(InvalidImage):
        _decode(_png(0, 10, rows=b""))


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1)])
def test_stripes_decode(size: tuple[int, int]) -> None:
    assert _decode(_encoded(Image.new("RGB", size), "PNG")).shape == (size[1], size[0], 3)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255))))
def test_damaged_bytes_decode_or_are_typed_errors(file_format: str, damage: list[tuple[int, int]]) -> None:
    data = bytearray(_encoded(_corner_picture(), file_format))
    for at, value in damage:
        data[at % len(data)] = value

    # Any error but an ImageError fails the test.
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(data), max_pixels=1_000_000).size <= 3_000_000


def _png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
